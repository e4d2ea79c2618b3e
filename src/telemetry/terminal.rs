//! One terminal for lines and a progress bar: no line is written into the bar, and no
//! bar is drawn where stderr is no terminal.

use std::io::{self, IsTerminal as _, Write};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};
use tracing_subscriber::fmt::MakeWriter;

/// Stderr, which people may be watching. Cheap to clone; all clones are one terminal.
#[derive(Debug, Clone)]
pub struct Terminal(MultiProgress);

impl Terminal {
    /// Stderr as it is.
    pub fn stderr() -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|name| name == "dumb");
        let target = if io::stderr().is_terminal() && !dumb {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        Self(MultiProgress::with_draw_target(target))
    }

    /// Whether a bar would be seen.
    pub fn draws(&self) -> bool {
        !self.0.is_hidden()
    }

    /// Puts a bar below all lines.
    pub fn add(&self, bar: ProgressBar) -> ProgressBar {
        self.0.add(bar)
    }

    /// Writes bytes above the bar. A closed stderr is no reason to fail.
    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.suspend(|| io::stderr().lock().write_all(bytes))
    }

    /// Writes a line above the bar.
    pub fn line(&self, text: &str) {
        let _ = self.write(format!("{text}\n").as_bytes());
    }
}

/// For log events, each of which comes in one piece.
impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::write(self, bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'w> MakeWriter<'w> for Terminal {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}
