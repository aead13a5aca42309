//! What the packer makes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use jitney_tests::programs::root;

#[test]
fn same_files_make_the_same_image() {
    let folder = tempfile::tempdir().unwrap();
    let pack = |name: &str, umask: u32| {
        let (files, image) = (
            folder.path().join(name),
            folder.path().join(format!("{name}.tar")),
        );
        fill(&files, umask);
        let packed = Command::new(root().join("tests/cluster/images/pack.py"))
            .args([
                "jitney.test/sample:1".as_ref(),
                image.as_os_str(),
                files.as_os_str(),
            ])
            .output()
            .unwrap();
        assert!(packed.status.success(), "{packed:?}");
        fs::read(image).unwrap()
    };
    let (one, other) = (pack("one", 0o022), pack("other", 0o077));
    assert_eq!(one, other);
}

/// A program and a file, with the modes that they have under `umask`.
fn fill(folder: &Path, umask: u32) {
    fs::create_dir_all(folder.join("bin")).unwrap();
    for (name, mode) in [("bin/program", 0o777), ("settings", 0o666)] {
        let file = folder.join(name);
        fs::write(&file, name).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode & !umask)).unwrap();
    }
}
