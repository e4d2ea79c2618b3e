//! What is wrong with a specification: each error names the field, the problem and
//! what to do.

use std::fmt;

use crate::error::{Category, Retry};

/// Why a specification is refused: the reasons of the condition `SpecAccepted`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A field that must not change did.
    ImmutableFieldChanged,
    /// A Secret that it refers to does not exist.
    SecretNotFound,
    /// A Secret that it refers to lacks the key.
    SecretKeyMissing,
    /// A field breaks a rule.
    ValidationFailed,
}

impl Reason {
    /// The PascalCase token.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ImmutableFieldChanged => "ImmutableFieldChanged",
            Self::SecretNotFound => "SecretNotFound",
            Self::SecretKeyMissing => "SecretKeyMissing",
            Self::ValidationFailed => "ValidationFailed",
        }
    }
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Where: `spec.roles[1].name`. Empty if it is the document as a whole.
    pub path: String,
    /// What is wrong. Never contains a secret.
    pub problem: String,
    /// What to do.
    pub advice: String,
    /// The reason for the condition.
    pub reason: Reason,
}

impl FieldError {
    /// A broken rule.
    pub fn new(
        path: impl Into<String>,
        problem: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            path: path.into(),
            problem: problem.into(),
            advice: advice.into(),
            reason: Reason::ValidationFailed,
        }
    }

    /// The same with another reason.
    #[must_use]
    pub fn because(self, reason: Reason) -> Self {
        Self { reason, ..self }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}; {}", self.problem, self.advice)
    }
}

/// All that is wrong with a specification, at least one thing. Displays one a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors(Vec<FieldError>);

impl Errors {
    /// Fails if there are any.
    pub fn check(errors: Vec<FieldError>) -> Result<(), Self> {
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Self(errors))
        }
    }

    /// Each, in the order of the document.
    pub fn iter(&self) -> std::slice::Iter<'_, FieldError> {
        self.0.iter()
    }

    /// The reason for the condition `SpecAccepted`. A missing Secret may turn up, so it
    /// is named only if nothing else is wrong.
    pub fn reason(&self) -> Reason {
        let reasons = || self.0.iter().map(|error| error.reason);
        let first = reasons().find(|reason| *reason == Reason::ImmutableFieldChanged);
        first
            .or_else(|| reasons().max())
            .unwrap_or(Reason::ValidationFailed)
    }
}

/// A path and a field below it; either may be empty.
pub(super) fn join(parent: &str, field: &str) -> String {
    match (parent.is_empty(), field.is_empty()) {
        (true, _) => field.to_owned(),
        (_, true) => parent.to_owned(),
        _ if field.starts_with('[') => format!("{parent}{field}"),
        _ => format!("{parent}.{field}"),
    }
}

impl From<FieldError> for Errors {
    fn from(error: FieldError) -> Self {
        Self(vec![error])
    }
}

impl<'a> IntoIterator for &'a Errors {
    type Item = &'a FieldError;
    type IntoIter = std::slice::Iter<'a, FieldError>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, error) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

impl Category for Errors {
    fn category(&self) -> &'static str {
        self.reason().as_str()
    }

    fn retry(&self) -> Retry {
        Retry::Never
    }
}

/// The errors for a terminal: paths in a column, the advice below each problem.
pub fn report_errors(errors: &Errors) -> String {
    let length = |error: &FieldError| error.path.chars().count();
    let beside = errors
        .iter()
        .map(length)
        .filter(|length| *length <= WIDEST_PATH);
    let width = beside.max().unwrap_or(0);
    let indent = " ".repeat(width + 2);
    let block = |error: &FieldError| {
        let FieldError {
            path,
            problem,
            advice,
            ..
        } = error;
        let path = if length(error) <= width {
            format!("{path:width$}  ")
        } else {
            format!("{path}\n{indent}")
        };
        format!("{path}{problem}\n{indent}→ {advice}\n")
    };
    errors.iter().map(block).collect()
}

/// Paths longer than this get a line of their own.
const WIDEST_PATH: usize = 40;

#[cfg(test)]
mod tests {
    use super::Reason::{
        ImmutableFieldChanged, SecretKeyMissing, SecretNotFound, ValidationFailed,
    };
    use super::*;

    fn errors() -> Errors {
        Errors(vec![
            FieldError::new("spec.lsn", "is missing", "name one, like 0/16B9188"),
            FieldError::new(
                "spec.roles[1].password.secretKeyRef.name",
                "there is no Secret app",
                "create it",
            )
            .because(Reason::SecretNotFound),
            FieldError::new(
                "spec.remoteExtensions.extensions[3].controlFiles[0].file",
                "is empty",
                "name it",
            ),
        ])
    }

    #[test]
    fn a_terminal_gets_paths_in_a_column() {
        insta::assert_snapshot!(report_errors(&errors()), @r"
        spec.lsn                                  is missing
                                                  → name one, like 0/16B9188
        spec.roles[1].password.secretKeyRef.name  there is no Secret app
                                                  → create it
        spec.remoteExtensions.extensions[3].controlFiles[0].file
                                                  is empty
                                                  → name it
        ");
    }

    #[test]
    fn a_condition_gets_one_line_for_each() {
        insta::assert_snapshot!(errors(), @r"
        spec.lsn: is missing; name one, like 0/16B9188
        spec.roles[1].password.secretKeyRef.name: there is no Secret app; create it
        spec.remoteExtensions.extensions[3].controlFiles[0].file: is empty; name it
        ");
    }

    #[test]
    fn a_missing_secret_is_the_reason_only_if_nothing_else_is_wrong() {
        let of = |reasons: &[Reason]| {
            let error = |reason: &Reason| FieldError::new("", "", "").because(*reason);
            Errors(reasons.iter().map(error).collect()).reason()
        };
        assert_eq!(of(&[SecretNotFound]), SecretNotFound);
        assert_eq!(of(&[SecretKeyMissing, SecretNotFound]), SecretKeyMissing);
        assert_eq!(of(&[SecretNotFound, ValidationFailed]), ValidationFailed);
        assert_eq!(
            of(&[ValidationFailed, ImmutableFieldChanged]),
            ImmutableFieldChanged
        );
    }
}
