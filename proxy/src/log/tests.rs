//! What is logged.

use super::*;

#[test]
fn levels_are_checked_word_by_word() {
    for (text, is_level) in [
        ("info", true),
        ("WARN", true),
        (" debug ", true),
        ("off", true),
        ("info,jitney_proxy=debug", true),
        ("warn,access=info,hyper::proto=trace", true),
        ("", false),
        ("verbose", false),
        ("info,", false),
        ("info,jitney_proxy", false),
        ("jitney_proxy=loud", false),
        ("=info", false),
        ("a b=info", false),
        ("[span]=info", false),
        ("3", false),
    ] {
        assert_eq!(text.parse::<Level>().is_ok(), is_level, "{text:?}");
    }
    let error = "x".repeat(10_000).parse::<Level>().unwrap_err().to_string();
    assert!(error.len() < 300, "{error}");
}

#[test]
fn access_lines_are_off_unless_asked_for() {
    let on = |text: &str| {
        let level: Level = text.parse().unwrap();
        level.targets.would_enable("access", &tracing::Level::INFO)
    };
    assert!(!on("trace"));
    assert!(on("warn,access=info"));
    let level: Level = "warn".parse().unwrap();
    assert!(
        level
            .with_access_log(true)
            .targets
            .would_enable("access", &tracing::Level::INFO)
    );
}
