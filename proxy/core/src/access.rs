//! Who may call what. Rules allow, and one that fits is enough; what none fits is denied.
//!
//! Paths are looked at as they came. One that another reader may take for another path, as with dot segments,
//! empty segments or an encoded slash, fits no rule that names paths: who wrote the rule meant what the service
//! makes of it, and that is not known here (CVE-2019-9901).

use std::sync::Arc;

use http::Method;
use smallvec::SmallVec;

use crate::route::PathMatch;

/// The rules of a service.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Of which one is enough.
    pub rules: Vec<Rule>,
    /// Otherwise what is denied is only told.
    pub is_enforced: bool,
}

/// What is allowed to whom: everything that is named has to fit.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// Its name.
    pub name: Arc<str>,
    /// Who calls; empty: whoever it is, proven or not.
    pub from: Vec<Who>,
    /// The ports that are called; empty: all.
    pub ports: Vec<u16>,
    /// Empty: all, and what is not HTTP unless there are paths.
    pub methods: Vec<Method>,
    /// Empty: all, and what is not HTTP unless there are methods.
    pub paths: Vec<PathMatch>,
}

/// A caller that a rule names. Nobody is one who has not proven it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Every workload of the mesh.
    Anybody,
    /// The workloads of a namespace.
    Namespace(Box<str>),
    /// One workload, as `namespace/account`.
    Workload(Box<str>),
    /// This SPIFFE ID.
    Id(Box<str>),
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Who has proven to be calling, as a SPIFFE ID.
    pub caller: Option<&'a str>,
    /// The port that is called.
    pub port: u16,
    /// The method and the raw path; `None` for what is not HTTP.
    pub call: Option<(&'a Method, &'a str)>,
}

impl Access {
    /// The first rule that allows it; `None`: it is denied.
    pub fn allows(&self, asked: &Asked<'_>) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.fits(asked))
    }
}

impl Rule {
    fn fits(&self, asked: &Asked<'_>) -> bool {
        let by_port = self.ports.is_empty() || self.ports.contains(&asked.port);
        let by_caller = self.from.is_empty()
            || asked
                .caller
                .is_some_and(|caller| self.from.iter().any(|who| who.is(caller)));
        by_port && by_caller && self.fits_call(asked)
    }

    fn fits_call(&self, asked: &Asked<'_>) -> bool {
        let Some((method, path)) = asked.call else {
            return self.methods.is_empty() && self.paths.is_empty();
        };
        let by_method = self.methods.is_empty() || self.methods.contains(method);
        let by_path =
            || self.paths.is_empty() || is_plain(path) && self.paths.iter().any(|one| one.fits(path));
        by_method && by_path()
    }
}

impl Who {
    fn is(&self, caller: &str) -> bool {
        let workload = || {
            // spiffe://<trust-domain>/ns/<namespace>/sa/<account>
            let (_, path) = caller.strip_prefix("spiffe://")?.split_once("/ns/")?;
            path.split_once("/sa/")
        };
        match self {
            Self::Anybody => true,
            Self::Namespace(namespace) => workload().is_some_and(|(found, _)| *found == **namespace),
            Self::Workload(name) => workload()
                .is_some_and(|(namespace, account)| name.split_once('/') == Some((namespace, account))),
            Self::Id(id) => **id == *caller,
        }
    }
}

/// Whether all readers take a path for the same: no empty segment, no dot segment however it is written or
/// padded, no parameters, and nothing encoded that means something or is no text.
fn is_plain(path: &str) -> bool {
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        let Some(text) = decoded(segment) else {
            return false;
        };
        let means_something =
            |byte: &u8| byte.is_ascii_control() || matches!(byte, b'\\' | b'/' | b'%' | b';');
        let bare = text.trim_ascii();
        if segment.is_empty() && !is_last || matches!(bare, b"." | b"..") || text.iter().any(means_something)
        {
            return false;
        }
    }
    path.starts_with('/')
}

/// What a segment stands for, if it is text. An encoded dot is none: nobody has to write one so.
fn decoded(segment: &str) -> Option<SmallVec<[u8; 64]>> {
    let mut bytes = segment.bytes();
    let mut text = SmallVec::new();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            text.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let code = digit(bytes.next()?)? * 16 + digit(bytes.next()?)?;
        text.push(u8::try_from(code).ok().filter(|byte| *byte != b'.')?);
    }
    std::str::from_utf8(&text).is_ok().then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CART: &str = "spiffe://mesh/ns/shop/sa/cart";

    fn asked<'a>(caller: Option<&'a str>, port: u16, call: Option<(&'a Method, &'a str)>) -> Asked<'a> {
        Asked { caller, port, call }
    }

    fn only(rule: Rule) -> Access {
        Access {
            rules: vec![rule],
            is_enforced: true,
        }
    }

    #[test]
    fn callers_are_who_they_have_proven_to_be() {
        let other_domain = "spiffe://other/ns/shop/sa/cart";
        for (who, of_cart, of_other) in [
            (Who::Anybody, true, true),
            (Who::Namespace("shop".into()), true, true),
            (Who::Namespace("sho".into()), false, false),
            (Who::Workload("shop/cart".into()), true, true),
            (Who::Workload("shop/car".into()), false, false),
            (Who::Id(CART.into()), true, false),
        ] {
            let access = only(Rule {
                from: vec![who.clone()],
                ..Rule::default()
            });
            let get = Some((&Method::GET, "/"));
            let allows = |caller| access.allows(&asked(caller, 80, get)).is_some();
            assert_eq!(allows(Some(CART)), of_cart, "{who:?}");
            assert_eq!(allows(Some(other_domain)), of_other, "{who:?}");
            assert!(!allows(None), "{who:?}: nobody has proven it");
        }
    }

    #[test]
    fn everything_that_a_rule_names_has_to_fit() {
        let access = only(Rule {
            ports: vec![80],
            methods: vec![Method::GET],
            paths: vec![PathMatch::prefix("/users")],
            ..Rule::default()
        });
        for (port, method, path, allowed) in [
            (80, Method::GET, "/users", true),
            (80, Method::GET, "/users/7", true),
            (81, Method::GET, "/users/7", false),
            (80, Method::POST, "/users/7", false),
            (80, Method::GET, "/orders", false),
        ] {
            let allows = access.allows(&asked(None, port, Some((&method, path))));
            assert_eq!(allows.is_some(), allowed, "{port} {method} {path}");
        }
        assert!(
            access.allows(&asked(None, 80, None)).is_none(),
            "bytes have no path"
        );
        let ports_only = only(Rule {
            ports: vec![6379],
            ..Rule::default()
        });
        assert!(ports_only.allows(&asked(None, 6379, None)).is_some());
        assert!(Access::default().allows(&asked(Some(CART), 80, None)).is_none());
    }

    #[test]
    fn c14_a_path_that_may_be_another_fits_no_rule_that_names_paths() {
        let access = only(Rule {
            paths: vec![PathMatch::prefix("/public")],
            ..Rule::default()
        });
        let allows = |path| {
            access
                .allows(&asked(None, 80, Some((&Method::GET, path))))
                .is_some()
        };
        for path in [
            "/public",
            "/public/",
            "/public/a.b",
            "/public/...",
            "/public/%41",
            "/public/a%20b",
        ] {
            assert!(allows(path), "{path}");
        }
        for path in [
            "/public/../admin",
            "/public/..",
            "/public/./a",
            "/public//admin",
            "/public/%2e%2e/admin",
            "/public/%2E./admin",
            "/public/.%2e",
            "/public/a%2fb",
            "/public/a%5cb",
            "/public/a\\..\\b",
            "/public/%252e%252e/admin",
            "/public/a%3b/../b",
            "/public/a%00",
            "/public/%",
            "/public/%2",
            "/public/%zz",
            "/public/..;/x",
            "/public/..;a=b/x",
            "/public/.;a/x",
            "/public/a;b",
            "/public/%c0%ae%c0%ae/x",
            "/public/%20../x",
            "/public/..%20/x",
            "*",
        ] {
            assert!(!allows(path), "{path}");
        }
        let any = only(Rule::default());
        assert!(
            any.allows(&asked(None, 80, Some((&Method::GET, "/a//b"))))
                .is_some()
        );
    }
}
