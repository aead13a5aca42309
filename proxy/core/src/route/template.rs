//! Path templates: `/users/{id}`, `/models/{name}:predict`. A variable is one segment, or the
//! part of one segment that the template does not spell out.

use super::Captures;

/// A path with variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// What precedes the first variable, or the whole path without one.
    head: Box<str>,
    /// Invariant: names are distinct.
    variables: Box<[Variable]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Variable {
    name: Box<str>,
    /// Ends the variable's own segment: `:predict`.
    suffix: Box<str>,
    /// From the next slash up to the next variable, or to the end.
    tail: Box<str>,
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It does not begin with a slash.
    #[error("must begin with a slash")]
    Relative,
    /// A brace without its counterpart.
    #[error("has a brace without its counterpart")]
    Brace,
    /// A variable's name is empty or has other characters than letters, digits and underscores.
    #[error("variable {0:?} is not a name of letters, digits and underscores")]
    Name(String),
    /// A name stands for two variables.
    #[error("names the variable {0:?} twice")]
    Twice(String),
    /// Two variables share a segment, so where one ends would be a guess.
    #[error("has two variables in one segment")]
    Crowded,
    /// A character that no path holds.
    #[error("holds {0:?}, which no path does")]
    Character(char),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if !text.starts_with('/') {
            return Err(TemplateError::Relative);
        }
        if let Some(bad) = text
            .chars()
            .find(|c| matches!(c, '?' | '#') || !c.is_ascii_graphic())
        {
            return Err(TemplateError::Character(bad));
        }
        let mut pieces = text.split('{');
        let head = literal(pieces.next().unwrap_or_default())?;
        let mut variables = Vec::<Variable>::new();
        for piece in pieces {
            let crowded = variables.last().is_some_and(|previous| previous.tail.is_empty());
            if crowded {
                return Err(TemplateError::Crowded);
            }
            let (name, rest) = piece.split_once('}').ok_or(TemplateError::Brace)?;
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(TemplateError::Name(name.to_owned()));
            }
            if variables.iter().any(|known| &*known.name == name) {
                return Err(TemplateError::Twice(name.to_owned()));
            }
            let rest = literal(rest)?;
            let (suffix, tail) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            variables.push(Variable {
                name: name.into(),
                suffix: suffix.into(),
                tail: tail.into(),
            });
        }
        Ok(Self {
            head: head.into(),
            variables: variables.into(),
        })
    }

    /// Names of the variables, in the order they stand in.
    pub fn variables(&self) -> impl ExactSizeIterator<Item = &str> {
        self.variables.iter().map(|variable| &*variable.name)
    }

    #[inline]
    pub(super) fn captures<'p, 'u>(&'p self, path: &'u str) -> Option<Captures<'p, 'u>> {
        let mut rest = path.strip_prefix(&*self.head)?;
        let mut captures = Captures::new();
        for variable in &self.variables {
            let end = memchr::memchr(b'/', rest.as_bytes()).unwrap_or(rest.len());
            let (segment, behind) = rest.split_at(end);
            let value = segment.strip_suffix(&*variable.suffix)?;
            if value.is_empty() || is_dots(value) {
                return None;
            }
            rest = behind.strip_prefix(&*variable.tail)?;
            captures.push((&variable.name, value));
        }
        rest.is_empty().then_some(captures)
    }
}

fn literal(text: &str) -> Result<&str, TemplateError> {
    if text.contains('}') {
        Err(TemplateError::Brace)
    } else {
        Ok(text)
    }
}

/// True for `.` and `..`, also percent-encoded: an upstream may walk the tree at such a segment,
/// so it is no value of a variable.
fn is_dots(value: &str) -> bool {
    after_dot(value.as_bytes()).is_some_and(|rest| after_dot(rest).unwrap_or(rest).is_empty())
}

fn after_dot(bytes: &[u8]) -> Option<&[u8]> {
    match bytes {
        [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] => Some(rest),
        _ => None,
    }
}
