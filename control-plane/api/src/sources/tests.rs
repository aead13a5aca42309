//! Files and folders as they are found on disk.

use super::*;

#[test]
fn folders_are_read_by_name_without_what_is_not_ours() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    let names = |sources: &Sources| {
        let base = |source: &Source| source.file.rsplit('/').next().unwrap().to_owned();
        sources.files.iter().map(base).collect::<Vec<_>>()
    };
    let faults = Sources::load(&[folder.path()]).unwrap_err();
    assert!(
        faults[0].message.starts_with("found no file named"),
        "{}",
        faults[0]
    );
    for name in ["b.yaml", "a.yml", "c.json", ".hidden.yaml", "README.md", "yaml"] {
        write(name, b"{}");
    }
    fs::create_dir(folder.path().join("inner.yaml")).unwrap();
    let sources = Sources::load(&[folder.path()]).unwrap();
    assert_eq!(names(&sources), ["a.yml", "b.yaml", "c.json"]);
    let single = Sources::load(&[folder.path().join("README.md"), folder.path().join("a.yml")]).unwrap();
    assert_eq!(names(&single), ["README.md", "a.yml"]);
    std::os::unix::fs::symlink("a.yml", folder.path().join("d.yaml")).unwrap();
    let sources = Sources::load(&[folder.path()]).unwrap();
    assert_eq!(names(&sources), ["a.yml", "b.yaml", "c.json", "d.yaml"]);
    std::os::unix::fs::symlink("nowhere", folder.path().join("e.yaml")).unwrap();
    let told = Sources::load(&[folder.path()]).unwrap_err()[0].to_string();
    assert!(
        told.ends_with("/e.yaml: a link to nowhere, where there is no such file"),
        "{told}"
    );
}

#[test]
fn unreadable_files_are_all_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("a"), b"kind: A\nb\xc3\xbc\xff").unwrap();
    fs::write(path("b"), vec![b' '; MAX_FILE_BYTES + 1]).unwrap();
    let faults = Sources::load(&[path("a"), path("b"), path("c")]).unwrap_err();
    let told = faults
        .iter()
        .map(|fault| fault.to_string().replace(&*folder.path().to_string_lossy(), ""));
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            "/a:2:3: found bytes that are no UTF-8 text",
            "/b: found more than 2097152 bytes, expected at most so many",
            "/c: no such file"
        ]
    );
}
