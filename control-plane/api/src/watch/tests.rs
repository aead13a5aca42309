//! Changes of files, in every way that they are made.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::mpsc;

use super::*;

/// A watch on one path in a folder of its own, and the readings it passed on.
struct Watched {
    folder: tempfile::TempDir,
    readings: Receiver<Reading>,
    watch: Watch,
}

impl Watched {
    fn new(set_up: impl FnOnce(&Path), path: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        set_up(folder.path());
        let paths = vec![folder.path().join(path)];
        let (noted, readings) = mpsc::channel();
        let first = Sources::load(&paths).unwrap();
        let watch = Watch::start(paths, first, move |reading| noted.send(reading).unwrap()).unwrap();
        Self {
            folder,
            readings,
            watch,
        }
    }

    #[track_caller]
    fn expect(&self, texts: &[&str]) {
        let reading = self
            .readings
            .recv_timeout(Duration::from_secs(10))
            .expect("the change is noticed");
        let seen: Vec<String> = reading.unwrap().files.into_iter().map(|file| file.text).collect();
        assert_eq!(seen, texts);
    }

    #[track_caller]
    fn expect_fault(&self, part: &str) {
        let reading = self
            .readings
            .recv_timeout(Duration::from_secs(10))
            .expect("the change is noticed");
        let fault = reading.unwrap_err()[0].to_string();
        assert!(fault.contains(part), "{fault}");
    }

    /// Ends the watch; nothing else was passed on.
    #[track_caller]
    fn end(self) {
        drop(self.watch);
        assert_eq!(self.readings.try_iter().collect::<Vec<_>>(), Vec::new());
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

#[test]
fn file_written_in_place_twice() {
    let watched = Watched::new(|folder| write(&folder.join("p.yaml"), "one"), "p.yaml");
    write(&watched.at("p.yaml"), "two");
    watched.expect(&["two"]);
    write(&watched.at("p.yaml"), "three");
    watched.expect(&["three"]);
    watched.end();
}

#[test]
fn file_replaced_by_rename() {
    let watched = Watched::new(|folder| write(&folder.join("p.yaml"), "one"), "p.yaml");
    for text in ["two", "three"] {
        write(&watched.at(".p.yaml.swp"), text);
        fs::rename(watched.at(".p.yaml.swp"), watched.at("p.yaml")).unwrap();
        watched.expect(&[text]);
    }
    watched.end();
}

#[test]
fn file_deleted_and_made_again() {
    let watched = Watched::new(|folder| write(&folder.join("p.yaml"), "one"), "p.yaml");
    fs::remove_file(watched.at("p.yaml")).unwrap();
    watched.expect_fault("p.yaml: no such file");
    write(&watched.at("p.yaml"), "two");
    watched.expect(&["two"]);
    watched.end();
}

fn kubernetes_volume(folder: &Path, version: &str, text: &str) {
    let version = Path::new(version);
    fs::create_dir(folder.join(version)).unwrap();
    write(&folder.join(version).join("p.yaml"), text);
    symlink(version, folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
}

fn kubernetes_swap(path: &str) {
    let watched = Watched::new(
        |folder| {
            kubernetes_volume(folder, "..1", "one");
            symlink("..data/p.yaml", folder.join("p.yaml")).unwrap();
        },
        path,
    );
    for (version, text) in [("..2", "two"), ("..3", "three")] {
        kubernetes_volume(watched.folder.path(), version, text);
        watched.expect(&[text]);
    }
    watched.end();
}

#[test]
fn kubernetes_swaps_the_link_behind_a_file() {
    kubernetes_swap("p.yaml");
}

#[test]
fn kubernetes_swaps_the_link_behind_a_folder() {
    kubernetes_swap("");
}

#[test]
fn link_to_a_file_elsewhere_that_is_written_in_place() {
    let watched = Watched::new(
        |folder| {
            fs::create_dir_all(folder.join("far/away")).unwrap();
            write(&folder.join("far/away/real.yaml"), "one");
            symlink("far/away/real.yaml", folder.join("p.yaml")).unwrap();
        },
        "p.yaml",
    );
    write(&watched.at("far/away/real.yaml"), "two");
    watched.expect(&["two"]);
    watched.end();
}

#[test]
fn folder_gains_changes_and_loses_files() {
    let watched = Watched::new(
        |folder| {
            fs::create_dir(folder.join("d")).unwrap();
            write(&folder.join("d/b.yaml"), "b");
        },
        "d",
    );
    write(&watched.at("d/a.yaml"), "a");
    watched.expect(&["a", "b"]);
    write(&watched.at("d/a.yaml"), "A");
    watched.expect(&["A", "b"]);
    fs::remove_file(watched.at("d/b.yaml")).unwrap();
    watched.expect(&["A"]);
    watched.end();
}

#[test]
fn folder_replaced_by_another_is_still_watched() {
    let watched = Watched::new(
        |folder| {
            fs::create_dir(folder.join("d")).unwrap();
            write(&folder.join("d/p.yaml"), "one");
            fs::create_dir(folder.join("new")).unwrap();
            write(&folder.join("new/p.yaml"), "two");
        },
        "d/p.yaml",
    );
    fs::rename(watched.at("d"), watched.at("old")).unwrap();
    fs::rename(watched.at("new"), watched.at("d")).unwrap();
    watched.expect(&["two"]);
    write(&watched.at("d/p.yaml"), "three");
    watched.expect(&["three"]);
    watched.end();
}

#[test]
fn same_text_again_is_not_passed_on() {
    let watched = Watched::new(|folder| write(&folder.join("p.yaml"), "one"), "p.yaml");
    write(&watched.at("p.yaml"), "one");
    write(&watched.at("other.yaml"), "else");
    write(&watched.at("p.yaml"), "one");
    write(&watched.at("p.yaml"), "two");
    watched.expect(&["two"]);
    watched.end();
}

#[test]
fn last_of_many_changes_is_never_missed() {
    for burst in 24..32 {
        let watched = Watched::new(|folder| write(&folder.join("p.yaml"), "0"), "p.yaml");
        let next = |patience| {
            let reading = watched.readings.recv_timeout(patience).ok()?;
            Some(reading.unwrap().files[0].text.to_string())
        };
        let mut newest = None;
        for n in 1..=burst {
            write(&watched.at("p.yaml"), &n.to_string());
            // The writer does not rest long enough to look settled.
            newest = next(QUIET / 2).or(newest);
        }
        let last = Some(burst.to_string());
        while newest != last {
            newest = next(Duration::from_secs(10));
            assert!(newest.is_some(), "the last of {burst} changes was missed");
        }
    }
}
