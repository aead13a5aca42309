//! Authorities as time passes.

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Whole seconds, which is all that certificates know.
fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + 20_000 * DAY
}

fn signing(authorities: &Authorities, now: SystemTime) -> &str {
    &authorities.signing(now).unwrap().certificate
}

#[test]
fn every_replica_reads_the_same() {
    let one = Authorities::generate(start()).unwrap();
    let other = Authorities::read(&one.certificates(), &one.keys()).unwrap();
    assert!(one == other);
    assert_eq!(other.0[0].made, start());
    assert_eq!(other.0[0].not_after, start() + LIFETIME);
}

#[test]
fn another_authority_is_made_early_and_signs_late() {
    let first = Authorities::generate(start()).unwrap();
    assert!(first.renewed(start() + 255 * DAY).unwrap().is_none());

    let renewal = start() + 256 * DAY;
    let both = first.renewed(renewal).unwrap().unwrap();
    assert!(
        both.certificates().starts_with(&first.certificates()),
        "both are believed"
    );
    assert!(both.renewed(renewal).unwrap().is_none());
    assert_eq!(signing(&both, renewal + SETTLING / 2), first.0[0].certificate);
    assert_eq!(signing(&both, renewal + SETTLING), both.0[1].certificate);

    let second = both.renewed(start() + LIFETIME).unwrap().unwrap();
    assert!(
        second.0.len() == 1 && second.0[0] == both.0[1],
        "the first is forgotten"
    );
}

#[test]
fn an_authority_that_slept_through_is_replaced_at_once() {
    let late = start() + 2 * LIFETIME;
    let other = Authorities::generate(start())
        .unwrap()
        .renewed(late)
        .unwrap()
        .unwrap();
    assert_eq!(other.0.len(), 1);
    assert_eq!(signing(&other, late), other.0[0].certificate);
}

#[test]
fn certificate_is_renewed_when_it_grows_old_or_its_authority_does() {
    let first = Authorities::generate(start()).unwrap();
    let present = first.present(None, "a.b.svc", start()).unwrap().unwrap();
    let again = |authorities: &Authorities, now| {
        let present = authorities.present(Some(&present), "a.b.svc", now).unwrap();
        present.is_some()
    };
    assert!(!again(&first, start() + 4 * DAY));
    assert!(again(&first, start() + 5 * DAY));
    let other = Authorities::generate(start()).unwrap();
    assert!(again(&other, start()), "somebody replaced the Secret");
}

#[test]
fn certificate_does_not_outlive_its_authority() {
    let authorities = Authorities::generate(start()).unwrap();
    let last = start() + LIFETIME - DAY;
    let present = authorities.present(None, "a.b.svc", last).unwrap().unwrap();
    assert!(present.renew_at < last + DAY);
}

#[test]
fn what_cannot_be_read_is_told() {
    let good = Authorities::generate(start()).unwrap();
    for (certificates, keys) in [
        (String::new(), String::new()),
        (good.certificates(), String::new()),
        (good.certificates().repeat(2), good.keys()),
        (good.certificates().repeat(9), good.keys().repeat(9)),
        (good.certificates().replace("MII", "MIX"), good.keys()),
        (good.certificates(), good.keys().replace("MIG", "MIX")),
    ] {
        let told = Authorities::read(&certificates, &keys).unwrap_err().to_string();
        assert!(
            told.contains("where it is removed, another one is made"),
            "{told}"
        );
    }
}
