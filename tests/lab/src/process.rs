//! A program in a host, ended with its guard.

use std::io;
use std::process::{Child, ExitStatus};

/// A running program. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    pub(crate) fn new(child: Child) -> Self {
        Self(child)
    }

    /// The program: its pid, and those of its pipes that were asked for.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Ends it without a chance to say good-bye: a relay that dies.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.0.kill()?;
        self.0.wait()
    }

    /// Waits for its own end.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only for a program that has ended.
        let _ = self.kill();
    }
}
