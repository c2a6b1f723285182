//! The one error type: what is wrong, where, what was expected and found, and what to do next.
//!
//! Messages are for people: lower case, no full stop, subject first, expected then found. A
//! [`hint`](Error::hint) names the one action that helps. The binary prints
//! `error: MESSAGE: SOURCE…` and `hint: …`, and exits with [`Error::exit_code`].

use std::fmt::{self, Write as _};

/// What kind of failure it is, which decides the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bad input or use, or a resource that could not be had (exit status 2).
    Input,
    /// A check ran and failed: verify, parity, a threshold (exit status 1).
    Check,
    /// The user asked to stop; what was done is saved (exit status 130).
    Interrupted,
    /// An invariant of ours is broken, which no input may cause (exit status 101, as a panic).
    Internal,
}

/// A failure with its reason.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Where bugs are reported: the project's page, as far as `Cargo.toml` knows it.
const REPORTS: &str = match env!("CARGO_PKG_REPOSITORY").as_bytes() {
    [] => "the project's page",
    _ => env!("CARGO_PKG_REPOSITORY"),
};

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, source: None }
    }

    /// Bad input, bad use, or a missing resource.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Kind::Input, message)
    }

    /// A check that ran and failed.
    pub fn check(message: impl Into<String>) -> Self {
        Self::new(Kind::Check, message)
    }

    /// The user asked to stop.
    pub fn interrupted(message: impl Into<String>) -> Self {
        Self::new(Kind::Interrupted, message)
    }

    /// A broken invariant: a bug, which its message says and its hint asks to report.
    pub fn internal(message: impl Into<String>) -> Self {
        let message = format!("a bug in nst-cache: {}", message.into());
        Self::new(Kind::Internal, message)
            .hint(format!("report it, with the command and what it printed, at {REPORTS}"))
    }

    /// Adds the one action that helps.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the error that caused this one; what a bug caused is a bug too.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let source = source.into();
        if source.downcast_ref::<Self>().is_some_and(|cause| cause.kind == Kind::Internal) {
            self.kind = Kind::Internal;
        }
        self.source = Some(source);
        self
    }

    /// The kind of failure.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The action that helps, of this error or of the nearest cause that has one.
    #[must_use]
    pub fn find_hint(&self) -> Option<&str> {
        if self.hint.is_some() {
            return self.hint.as_deref();
        }
        let cause = self.source.as_deref()?.downcast_ref::<Error>()?;
        cause.find_hint()
    }

    /// The process's exit status: 2 bad input, 1 a failed check, 130 interrupted, 101 a bug.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Input => 2,
            Kind::Check => 1,
            Kind::Interrupted => 130,
            Kind::Internal => 101,
        }
    }

    /// The message and its causes on one line, `a: b: c`.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            let cause_text = cause.to_string();
            if !text.ends_with(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            next = cause.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn std::error::Error + 'static))
    }
}

impl From<candle_core::Error> for Error {
    fn from(e: candle_core::Error) -> Self {
        Self::input("tensor computation failed").because(e)
    }
}

/// A name from outside as a message shows it: on one line, without what a terminal obeys, bytes
/// that are no text as `\xff`.
#[must_use]
pub fn shown(name: &[u8]) -> String {
    // also the marks that turn the direction of a line
    let obeyed =
        |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            if obeyed(c) { text.extend(c.escape_default()) } else { text.push(c) }
        }
        for byte in chunk.invalid() {
            // writing to a string cannot fail
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Says what was being done when something failed.
pub trait Context<T> {
    /// Wraps the failure in an [`Kind::Input`] error with this message (an [`Error`] keeps its
    /// kind).
    ///
    /// # Errors
    /// When `self` is one.
    fn context(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> Context<T>
    for std::result::Result<T, E>
{
    fn context(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| {
            let source = e.into();
            let kind = source.downcast_ref::<Error>().map_or(Kind::Input, Error::kind);
            Error { kind, message: message(), hint: None, source: Some(source) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_invariant_says_that_it_is_a_bug_and_exits_like_a_panic() {
        let error = Error::internal("operator got no gradient");
        let wrapped: Result<()> = Err(error).context(|| "node conv1 (Conv)".to_owned());
        let wrapped = wrapped.unwrap_err();
        assert_eq!((wrapped.kind(), wrapped.exit_code()), (Kind::Internal, 101));
        assert_eq!(
            wrapped.chain(),
            "node conv1 (Conv): a bug in nst-cache: operator got no gradient"
        );
        assert!(
            wrapped
                .find_hint()
                .is_some_and(|hint| { hint.starts_with("report it") && hint.ends_with(REPORTS) })
        );
        let hidden = Error::input("the student cannot run").because(wrapped);
        assert_eq!(hidden.kind(), Kind::Internal, "bad input hides a bug");
    }

    #[test]
    fn names_from_outside_stay_on_one_line_and_apart() {
        assert_eq!(shown("猫 ñandú e\u{301}.png".as_bytes()), "猫 ñandú e\u{301}.png");
        assert_eq!(shown(b"a\nb\x1b[2J\xff\xfe"), "a\\nb\\u{1b}[2J\\xff\\xfe");
        assert_ne!(shown(b"\xff"), shown(b"\xfe"));
        assert_eq!(shown("x\u{202e}gnp".as_bytes()), "x\\u{202e}gnp");
    }
}
