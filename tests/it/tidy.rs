//! The house rules: which package imports which, how long files and functions are, that names say
//! something, that the README tells the truth, and that a metric is named in one place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use jitney_tests::programs::root;

/// Production lines that one file may have.
const FILE_LINES: usize = 500;
/// Lines that one function may have: what `.clippy.toml` says as well, and macros do not hide here.
const FUNCTION_LINES: usize = 70;
/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &[
    "utils", "util", "helpers", "helper", "common", "manager", "misc", "mod",
];

/// Who may import whom: a package, and the packages of ours that it may name.
const ARROWS: &[(&str, &[&str])] = &[
    ("jitney-core", &[]),
    ("jitney-api", &["jitney-core"]),
    ("jitney-proxy", &["jitney-core", "jitney-api"]),
    ("jitney-control-plane", &["jitney-core", "jitney-api"]),
    (
        "jitney-tests",
        &[
            "jitney-core",
            "jitney-api",
            "jitney-proxy",
            "jitney-control-plane",
        ],
    ),
    (
        "jitney-examples",
        &[
            "jitney-core",
            "jitney-api",
            "jitney-proxy",
            "jitney-control-plane",
        ],
    ),
];

#[test]
fn imports_run_one_way() {
    let mut faults = Vec::new();
    for (folder, manifest) in packages() {
        let name = manifest
            .lines()
            .find_map(|line| line.strip_prefix("name = "))
            .unwrap()
            .trim_matches('"')
            .to_owned();
        let Some((_, allowed)) = ARROWS.iter().find(|(package, _)| *package == name) else {
            faults.push(format!("{name} is not in the table of arrows"));
            continue;
        };
        for (other, _) in ARROWS
            .iter()
            .filter(|(other, _)| *other != name && !allowed.contains(other))
        {
            if manifest
                .lines()
                .any(|line| line.starts_with(&format!("{other}.")))
            {
                faults.push(format!("{name} depends on {other}"));
            }
            let path = other.replace('-', "_") + "::";
            for file in sources(&folder).filter(|file| !nested(&folder, file)) {
                let text = fs::read_to_string(&file).unwrap();
                if text
                    .lines()
                    .any(|line| !line.trim_start().starts_with("//") && line.contains(&path))
                {
                    faults.push(format!("{} names {other}", shown(&file)));
                }
            }
        }
    }
    check(&faults);
}

#[test]
fn core_owns_no_clock_socket_task_or_lock() {
    let banned = [
        "Instant::now",
        "SystemTime",
        "std::net",
        "tokio::",
        "std::thread",
        "Mutex",
        "RwLock",
        "std::fs",
    ];
    let mut faults = Vec::new();
    for file in sources(&root().join("proxy/core/src")).filter(|file| !is_test(file)) {
        let text = fs::read_to_string(&file).unwrap();
        for line in production(&text).filter(|line| !line.trim_start().starts_with("//")) {
            for word in banned.iter().filter(|word| line.contains(**word)) {
                faults.push(format!("{}: {word}: {}", shown(&file), line.trim()));
            }
        }
    }
    check(&faults);
}

#[test]
fn files_and_functions_are_short() {
    let mut faults = Vec::new();
    for file in sources(root()) {
        let text = fs::read_to_string(&file).unwrap();
        let lines = production(&text).count();
        if lines > FILE_LINES && !is_test(&file) {
            faults.push(format!("{} has {lines} lines", shown(&file)));
        }
        let long = functions(&text)
            .into_iter()
            .filter(|(_, lines)| *lines > FUNCTION_LINES);
        for (name, lines) in long.filter(|_| !is_test(&file)) {
            faults.push(format!("{}: fn {name} has {lines} lines", shown(&file)));
        }
    }
    check(&faults);
}

#[test]
fn every_file_says_what_it_is_for() {
    let mut faults = Vec::new();
    for file in sources(root()) {
        let text = fs::read_to_string(&file).unwrap();
        if !text.starts_with("//!") {
            faults.push(format!("{} does not open with //!", shown(&file)));
        }
        let stem = file.file_stem().unwrap().to_str().unwrap();
        if EMPTY_NAMES.contains(&stem) {
            faults.push(format!("{}: a name that says nothing", shown(&file)));
        }
        for word in ["todo!(", "unimplemented!(", "#[ignore"] {
            let used = |line: &str| line.trim_start().starts_with(word) || line.contains(&format!(" {word}"));
            if text.lines().any(used) && !file.ends_with("tidy.rs") {
                faults.push(format!("{}: {word}", shown(&file)));
            }
        }
    }
    check(&faults);
}

#[test]
fn a_metric_is_named_in_one_place() {
    let mut places: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in sources(&root().join("proxy"))
        .chain(sources(&root().join("control-plane")))
        .filter(|file| !is_test(file))
    {
        let text = fs::read_to_string(&file).unwrap();
        for name in production(&text)
            .filter(|line| !line.trim_start().starts_with("//"))
            .flat_map(metric_names)
        {
            places.entry(name).or_default().insert(shown(&file));
        }
    }
    let twice = places.iter().filter(|(_, files)| files.len() > 1);
    check(
        &twice
            .map(|(name, files)| format!("{name} is defined in {files:?}"))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn readme_maps_every_folder_and_no_other() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let map = readme
        .split("## Code map")
        .nth(1)
        .and_then(|rest| rest.split("```text").nth(1))
        .unwrap();
    let map = map.split("```").next().unwrap();
    let (mut open, mut named) = (Vec::<(usize, PathBuf)>::new(), BTreeSet::new());
    for line in map.lines().filter(|line| !line.trim().is_empty()) {
        let indent = line.len() - line.trim_start().len();
        open.retain(|(outer, _)| *outer < indent);
        let name = line.split_whitespace().next().unwrap().trim_end_matches('/');
        let path = open
            .last()
            .map_or_else(PathBuf::new, |(_, path)| path.clone())
            .join(name);
        named.insert(path.clone());
        open.push((indent, path));
    }
    let folders = files(root()).into_iter().flat_map(|file| {
        let folder = file.parent().unwrap().strip_prefix(root()).unwrap().to_owned();
        folder
            .ancestors()
            .filter(|path| !path.as_os_str().is_empty())
            .map(Path::to_owned)
            .collect::<Vec<_>>()
    });
    let existing: BTreeSet<PathBuf> = folders.filter(|folder| !is_inside_a_module(folder)).collect();
    let missing = existing
        .difference(&named)
        .map(|folder| format!("{} is not in the map", folder.display()));
    let invented = named
        .difference(&existing)
        .map(|folder| format!("{} does not exist", folder.display()));
    check(&missing.chain(invented).collect::<Vec<_>>());
}

/// Folders below `src`, `it` and `harness` hold the parts of one module, those of `fuzz` its inputs, and
/// those of `cluster` its parts.
fn is_inside_a_module(folder: &Path) -> bool {
    let whole = ["src", "tests/it", "tests/harness", "tests/fuzz", "tests/cluster"];
    folder
        .ancestors()
        .skip(1)
        .any(|outer| whole.iter().any(|end| outer.ends_with(end)))
}

#[test]
fn links_lead_somewhere() {
    let mut faults = Vec::new();
    for file in files(root())
        .iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "md"))
    {
        let text = fs::read_to_string(file).unwrap();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let path = file.parent().unwrap().join(target.split('#').next().unwrap());
            if !path.exists() {
                faults.push(format!("{}: {target}", shown(file)));
            }
        }
    }
    check(&faults);
}

/// Names like `jitney_batch_size` in quotes: what registers a metric.
fn metric_names(line: &str) -> Vec<String> {
    let quoted = line.split('"').skip(1).step_by(2);
    let names = quoted.filter(|text| {
        let rest = text.strip_prefix("jitney_").unwrap_or("");
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    });
    let packages = [
        "jitney_core",
        "jitney_api",
        "jitney_proxy",
        "jitney_control_plane",
        "jitney_tests",
    ];
    names
        .filter(|name| !packages.contains(name))
        .map(str::to_owned)
        .collect()
}

/// The faults, all of them at once.
#[track_caller]
fn check(faults: &[String]) {
    assert!(
        faults.is_empty(),
        "{} faults:\n  {}",
        faults.len(),
        faults.join("\n  ")
    );
}

/// Every package of the workspace: its folder and its manifest.
fn packages() -> Vec<(PathBuf, String)> {
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = workspace
        .lines()
        .find_map(|line| line.strip_prefix("members = ["))
        .unwrap();
    let members = members.split('"').skip(1).step_by(2);
    members
        .map(|member| {
            (
                root().join(member),
                fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap(),
            )
        })
        .collect()
}

/// True when `file` belongs to a package that sits deeper than `folder`.
fn nested(folder: &Path, file: &Path) -> bool {
    let between = file
        .ancestors()
        .skip(1)
        .take_while(|ancestor| *ancestor != folder);
    between
        .into_iter()
        .any(|ancestor| ancestor.join("Cargo.toml").exists())
}

/// Every Rust file below `folder` but what is built.
fn sources(folder: &Path) -> impl Iterator<Item = PathBuf> {
    files(folder)
        .into_iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "rs"))
}

/// Every file below `folder` but what is built or hidden.
fn files(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name == "target" || name.starts_with('.') || name == "__pycache__" {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Files whose length is not held against them: tests beside the code and the suites.
fn is_test(file: &Path) -> bool {
    let below = file.strip_prefix(root()).unwrap();
    below.starts_with("tests/it")
        || below
            .components()
            .any(|part| matches!(part.as_os_str().to_str(), Some("tests.rs" | "tests")))
            && !below.starts_with("tests/harness")
}

/// The lines before a file's unit tests.
fn production(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .take_while(|line| *line != "#[cfg(test)]" && !line.starts_with("mod tests"))
}

/// Functions and the lines of code in them, by indentation: rustfmt closes a function where it began.
fn functions(text: &str) -> Vec<(String, usize)> {
    let (mut found, mut open) = (Vec::new(), Vec::<(String, String, usize)>::new());
    for line in text.lines() {
        let (before, code) = line.split_at(line.len() - line.trim_start().len());
        if open.last().is_some_and(|(_, close, _)| line == close) {
            found.extend(open.pop().map(|(name, _, lines)| (name, lines)));
        }
        // The body begins where a signature of several lines ends.
        if let Some((_, _, lines)) = open
            .last_mut()
            .filter(|_| line.starts_with(&format!("{before})")) && line.ends_with('{'))
        {
            *lines = 0;
        } else if !code.is_empty() && !code.starts_with("//") {
            open.iter_mut().for_each(|(_, _, lines)| *lines += 1);
        }
        let mut rest = code;
        for word in ["pub ", "pub(crate) ", "pub(super) ", "const ", "async "] {
            rest = rest.strip_prefix(word).unwrap_or(rest);
        }
        if let Some(name) = rest.strip_prefix("fn ").filter(|_| !code.ends_with(['}', ';'])) {
            let name = name.split(['(', '<']).next().unwrap_or(name);
            open.push((name.to_owned(), format!("{before}}}"), 0));
        }
    }
    found
}

/// A path as the reader of a failure wants it.
fn shown(file: &Path) -> String {
    file.strip_prefix(root()).unwrap_or(file).display().to_string()
}
