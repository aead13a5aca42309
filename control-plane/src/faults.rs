//! What is wrong with the state folder now, told for as long as it is, with what can be done about it.

use std::collections::BTreeMap;
use std::fmt::Display;

use parking_lot::Mutex;

/// What goes on in the state folder besides rollouts, which tell of themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doing {
    /// To know the certificates that are alive.
    Certificates,
    /// To note one before it is handed out.
    Signing,
    /// To know the roots.
    Roots,
    /// To tell the other replicas how the sidecars stand to them.
    Telling,
    /// To hear that of them.
    Hearing,
    /// To keep the authority's keys in a Secret.
    Keys,
    /// To know whom somebody else has sign.
    Issuer,
    /// To have them sign.
    Following,
    /// To have the roots in every namespace.
    RootsMap,
    /// To tell on policies who runs them.
    Status,
    /// To have kinds that a status can be written of.
    Definitions,
    /// To know what the other replicas know of that.
    Peers,
    /// To be the only one who does.
    Lease,
    /// To tell which pods lack the sidecar that they are to have.
    Missed,
    /// To have the API server believe the webhook.
    Webhook,
}

/// What does not go on, and why.
#[derive(Debug, Default)]
pub struct Faults(Mutex<BTreeMap<Doing, String>>);

impl Faults {
    /// Notes how it goes. Logged when that is news.
    pub fn note<E: Display>(&self, doing: Doing, done: Result<(), E>) {
        let mut faults = self.0.lock();
        match done {
            Ok(()) => {
                if faults.remove(&doing).is_some() {
                    tracing::info!("over: {}", doing.fault());
                }
            }
            Err(error) => {
                let error = error.to_string();
                if faults.get(&doing) != Some(&error) {
                    tracing::error!(error, "{}", doing.fault());
                }
                faults.insert(doing, error);
            }
        }
    }

    /// A line each, with the way out.
    pub fn texts(&self) -> Vec<String> {
        self.texts_of(|_| true)
    }

    /// Those without which nobody can tell whether an exchange of roots hurts.
    pub fn texts_of_roots(&self) -> Vec<String> {
        self.texts_of(Doing::is_of_roots)
    }

    fn texts_of(&self, is_meant: impl Fn(Doing) -> bool) -> Vec<String> {
        let faults = self.0.lock();
        let meant = faults.iter().filter(|(doing, _)| is_meant(**doing));
        let text =
            |(doing, error): (&Doing, &String)| format!("{}: {error}; {}", doing.fault(), doing.way_out());
        meant.map(text).collect()
    }
}

impl Doing {
    const fn is_of_roots(self) -> bool {
        match self {
            Self::Certificates
            | Self::Signing
            | Self::Roots
            | Self::Telling
            | Self::Hearing
            | Self::Keys
            | Self::Following
            | Self::RootsMap => true,
            Self::Issuer
            | Self::Status
            | Self::Definitions
            | Self::Peers
            | Self::Lease
            | Self::Missed
            | Self::Webhook => false,
        }
    }

    const fn fault(self) -> &'static str {
        match self {
            Self::Certificates => "it is not known which certificates are alive, and none can be signed",
            Self::Signing => "a certificate could not be noted, and was not handed out",
            Self::Roots => "the roots in the state cannot be used, the last good ones stay",
            Self::Telling => "other replicas are not told how the sidecars stand to the roots",
            Self::Hearing => "it is not known how the sidecars of other replicas stand to the roots",
            Self::Keys => "the Secret with the authority's keys may not hold those that are in force",
            Self::Issuer => "certificates are signed by the last good issuer",
            Self::Following => "the roots are not yet those of --issuer",
            Self::Status => "the status of policies is not what it was found to be",
            Self::Definitions => {
                "kinds are defined as an earlier version has them, and nothing tells who runs their objects"
            }
            Self::Peers => "the status of policies leaves out sidecars of other replicas",
            Self::Lease => "it is not known which replica writes the status of policies",
            Self::Missed => "it is not told which pods lack the sidecar that they are to have",
            Self::Webhook => {
                "the API server may not believe the webhook, and pods that are to have a sidecar are not made then"
            }
            Self::RootsMap => {
                "pods of a namespace may not have the roots, without which their sidecars do not start"
            }
        }
    }

    const fn way_out(self) -> &'static str {
        match self {
            Self::Certificates | Self::Signing => {
                "if the folder is there and has room, restore the file, or remove it and start the control plane \
                 again: for a day it then waits for certificates that it does not know of before a root is exchanged"
            }
            Self::Roots => "no root can be exchanged meanwhile",
            Self::Telling | Self::Hearing => {
                "see that the folder of --state is there, can be written and has room"
            }
            Self::Peers => {
                "it is tried again; see that every replica reaches the others' admin endpoint (--admin), at the same port, \
                 and that the API server lets this account list EndpointSlices in its own namespace"
            }
            Self::Definitions => "it is written as soon as the definitions are those of this version",
            Self::Issuer => "it is read again as soon as it changes",
            Self::Following => "it is tried again",
            Self::Webhook => {
                "see that this account may do it; a Secret jitney-webhook that cannot be read is made anew once it is removed"
            }
            Self::Keys | Self::RootsMap | Self::Status | Self::Lease | Self::Missed => {
                "it is tried again; see that the API server lets this account do it"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_told_until_it_is_over() {
        let faults = Faults::default();
        faults.note(Doing::Certificates, Err("no such file"));
        faults.note(Doing::Roots, Ok::<_, String>(()));
        let [told] = &faults.texts()[..] else {
            panic!("{faults:?}");
        };
        assert!(told.contains("none can be signed: no such file; "), "{told}");
        assert!(told.contains("start the control plane again"), "{told}");
        faults.note(Doing::Certificates, Ok::<_, String>(()));
        assert_eq!(faults.texts(), Vec::<String>::new());
    }

    #[test]
    fn who_runs_a_policy_is_nothing_to_the_roots() {
        let faults = Faults::default();
        for doing in [
            Doing::Status,
            Doing::Definitions,
            Doing::Peers,
            Doing::Lease,
            Doing::Missed,
        ] {
            faults.note(doing, Err("forbidden"));
        }
        assert_eq!((faults.texts().len(), faults.texts_of_roots().len()), (5, 0));
        faults.note(Doing::Keys, Err("forbidden"));
        assert_eq!(faults.texts_of_roots().len(), 1);
    }
}
