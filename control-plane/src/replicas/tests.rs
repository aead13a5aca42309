//! What replicas tell each other, and when one is not counted on any more.

use std::fs;

use super::*;
use crate::identity::RootState;
use crate::push::Admitted;
use jitney_api::Workload;

struct Mesh {
    state: tempfile::TempDir,
    trust: Arc<Trust>,
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn later(seconds: u64) -> SystemTime {
    now() + Duration::from_secs(seconds)
}

impl Mesh {
    fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let folder = Folder::open(state.path()).unwrap();
        let trust = Arc::new(Trust::open(&folder, "example.org", now()).unwrap());
        Self { state, trust }
    }

    fn replica(&self) -> (Replicas, Arc<Sidecars>) {
        let folder = Folder::open(self.state.path()).unwrap();
        let sidecars = Arc::default();
        let replicas = Replicas::open(&folder, &sidecars, &self.trust, now()).unwrap();
        (replicas, sidecars)
    }

    fn files(&self) -> Vec<PathBuf> {
        let folder = Folder::open(&self.state.path().join(FOLDER)).unwrap();
        let names = folder.names().unwrap();
        names.iter().map(|name| folder.path(name)).collect()
    }
}

fn users() -> Admitted {
    Workload {
        namespace: "shop".into(),
        account: "users".into(),
    }
    .into()
}

#[test]
fn each_knows_of_the_sidecars_of_the_others() {
    let mesh = Mesh::new();
    let ((one, sidecars), (other, _)) = (mesh.replica(), mesh.replica());
    assert_eq!(
        other.others(Instant::now()).unwrap().sidecars,
        [Trusting::default()]
    );
    let stream = sidecars.open(&users(), 0);
    stream.named("users-1");
    one.tell(now()).unwrap();
    let told = Trusting {
        connected: 1,
        behind: vec!["shop/users users-1".into()],
        workloads: ["shop/users".into()].into(),
        names: one.own().names,
        ..Trusting::default()
    };
    assert_eq!(told.names().count(), 1);
    assert_eq!(one.own(), told);
    assert_eq!(other.others(Instant::now()).unwrap().sidecars, [told]);
    one.leave();
    one.tell(later(60)).unwrap();
    assert_eq!(
        other.others(Instant::now()).unwrap(),
        Others::default(),
        "it has left"
    );
}

#[test]
fn what_was_said_before_a_root_was_known_does_not_count_for_it() {
    let mesh = Mesh::new();
    let (one, _) = mesh.replica();
    let folder = Folder::open(mesh.state.path()).unwrap();
    let trust = Arc::new(Trust::open(&folder, "example.org", now()).unwrap());
    let other = Replicas::open(&folder, &Arc::default(), &trust, now()).unwrap();
    mesh.trust.add(now()).unwrap();
    let next = mesh.trust.roots().in_state(RootState::Next).unwrap().id;
    let unaware = || one.others(Instant::now()).unwrap().unaware_of(next);
    other.tell(later(9)).unwrap();
    assert_eq!(unaware(), 1, "it has not heard of the root");
    assert!(trust.reload().unwrap());
    assert_eq!(unaware(), 1, "nor said anything since");
    other.tell(later(1)).unwrap();
    assert_eq!(unaware(), 0);
}

#[test]
fn nothing_is_written_where_nothing_is_new_but_now_and_then() {
    let mesh = Mesh::new();
    let (one, _) = mesh.replica();
    let file = mesh.files().remove(0);
    let said = || fs::read_to_string(&file).unwrap();
    let first = said();
    one.tell(later(9)).unwrap();
    assert_eq!(said(), first);
    one.tell(later(10)).unwrap();
    assert_ne!(said(), first);
}

#[test]
fn who_is_silent_is_named_for_a_while_and_not_counted_on() {
    let mesh = Mesh::new();
    let ((one, sidecars), (other, _)) = (mesh.replica(), mesh.replica());
    let stream = sidecars.open(&users(), 0);
    stream.named("users-1");
    one.tell(now()).unwrap();
    let began = Instant::now();
    let at = |seconds| other.others(began + Duration::from_secs(seconds)).unwrap();
    assert_eq!(at(0).sidecars.len(), 1);
    assert_eq!(at(30).sidecars.len(), 1);
    let others = at(31);
    assert_eq!((others.sidecars.len(), others.silent.len()), (0, 1));
    assert!(
        others.silent[0]
            .ends_with("with a sidecar that has not come back elsewhere, has been silent for 31 s"),
        "{}",
        others.silent[0]
    );
    assert_eq!(at(3601), Others::default());
    assert_eq!(mesh.files().len(), 1, "and then forgotten");
}

#[test]
fn a_sidecar_that_has_come_from_a_replica_that_died_is_counted_once() {
    let mesh = Mesh::new();
    let ((one, at_one), (third, at_third), (other, at_other)) =
        (mesh.replica(), mesh.replica(), mesh.replica());
    let began = Instant::now();
    let open = |sidecars: &Arc<Sidecars>, node: &str| {
        let stream = sidecars.open(&users(), 0);
        stream.named(node);
        stream
    };
    let counts = |seconds| {
        let others = other.others(began + Duration::from_secs(seconds)).unwrap();
        let behind = others.sidecars.iter().flat_map(|of| of.behind.clone());
        let mut behind: Vec<String> = behind.collect();
        behind.sort();
        let connected = others.sidecars.iter().map(|of| of.connected).sum::<usize>();
        (connected, behind.join(", "), others.silent.len())
    };
    let _before = ["a", "b"].map(|node| open(&at_one, node));
    one.tell(later(0)).unwrap();
    assert_eq!(counts(0), (2, "shop/users a, shop/users b".to_owned(), 0));
    // It dies: one of its sidecars comes here, one goes to the third.
    let _here = open(&at_other, "a");
    assert_eq!(counts(1), (1, "shop/users b".to_owned(), 0));
    let _there = open(&at_third, "b");
    third.tell(later(2)).unwrap();
    assert_eq!(counts(2), (1, "shop/users b".to_owned(), 0));
    third.tell(later(32)).unwrap();
    assert_eq!(counts(32), (1, "shop/users b".to_owned(), 0), "nobody misses it");
    assert_eq!(other.own().connected, 1);
}

#[test]
fn who_speaks_is_heard_whatever_its_clock_says() {
    let mesh = Mesh::new();
    let ((one, _), (other, _)) = (mesh.replica(), mesh.replica());
    let began = Instant::now();
    for seconds in [0, 20, 40] {
        // A day ahead, and another step back each time.
        one.tell(later(86_400 - 100 * seconds)).unwrap();
        let others = other.others(began + Duration::from_secs(seconds)).unwrap();
        assert_eq!((others.sidecars.len(), others.silent.len()), (1, 0), "{seconds}");
    }
}

#[test]
fn who_cannot_be_heard_knows_it_where_others_are_there() {
    let mesh = Mesh::new();
    let ((one, _), (other, _)) = (mesh.replica(), mesh.replica());
    let late = || Instant::now() + SILENT + Duration::from_secs(1);
    one.others(Instant::now()).unwrap();
    assert!(!one.is_unheard(Instant::now()));
    assert!(!other.is_unheard(late()), "it has heard of nobody");
    let (folder, gone) = (mesh.state.path().join(FOLDER), mesh.state.path().join("gone"));
    fs::rename(&folder, &gone).unwrap();
    assert!(one.tell(later(60)).is_err() && one.others(late()).is_err());
    assert!(one.is_unheard(late()));
    fs::rename(&gone, &folder).unwrap();
    one.tell(later(61)).unwrap();
    assert!(!one.is_unheard(Instant::now()));
    other.leave();
    one.others(Instant::now()).unwrap();
    assert!(!one.is_unheard(late()), "there is nobody to go to");
}

#[test]
fn a_file_that_says_nothing_is_named() {
    let mesh = Mesh::new();
    let (one, _) = mesh.replica();
    let file = mesh.state.path().join(FOLDER).join("other.json");
    for (text, expected) in [
        ("{", "EOF"),
        ("{\"at\": 1, \"sidecars\": {}}", "missing field"),
        ("{\"at\": 1, \"since\": 2}", "unknown field"),
    ] {
        fs::write(&file, text).unwrap();
        let others = one.others(Instant::now()).unwrap();
        let [fault] = &others.faults[..] else {
            panic!("{others:?}");
        };
        assert!(fault.starts_with(&file.display().to_string()), "{fault}");
        assert!(fault.contains(expected), "{fault}");
    }
}
