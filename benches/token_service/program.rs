//! Servers as processes of their own.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, Read, Write as _},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use crate::Failure;

/// How long a server may take to start.
const START: Duration = Duration::from_secs(60);
/// Lines that are kept to be shown if it fails.
const LINES_KEPT: usize = 20;

/// A running program, killed when dropped.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    said: Arc<Mutex<VecDeque<String>>>,
}

impl Program {
    /// Starts a program, writes this to its standard input, which stays open, and waits for a line, of
    /// standard output or error, of which `find` makes something.
    pub(crate) fn start<T: Send + 'static>(
        mut command: Command,
        input: &str,
        find: impl Fn(&str) -> Option<T> + Clone + Send + 'static,
    ) -> Result<(Self, T), Failure> {
        let spawned = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = spawned.map_err(|error| format!("{command:?}: {error}"))?;
        let said = Arc::new(Mutex::new(VecDeque::new()));
        let (found, finding) = mpsc::channel();
        let (out, err) = (child.stdout.take(), child.stderr.take());
        if let (Some(out), Some(err)) = (out, err) {
            read(out, said.clone(), find.clone(), found.clone());
            read(err, said.clone(), find, found);
        }
        if let Some(stdin) = &mut child.stdin {
            stdin.write_all(input.as_bytes())?;
        }
        let program = Self { child, said };
        match finding.recv_timeout(START) {
            Ok(found) => Ok((program, found)),
            Err(_) => Err(format!("{command:?} does not serve:\n{}", program.last_words()).into()),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The latest lines that it has written.
    pub(crate) fn last_words(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.iter().map(|line| format!("  {line}\n")).collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself, which whoever called it has noticed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads to the end, whatever else happens: a full pipe would stop the program.
fn read<T: Send + 'static>(
    from: impl Read + Send + 'static,
    said: Arc<Mutex<VecDeque<String>>>,
    find: impl Fn(&str) -> Option<T> + Send + 'static,
    found: mpsc::Sender<T>,
) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if let Some(what) = find(&line) {
                // Only the first is waited for.
                let _ = found.send(what);
            }
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.len() == LINES_KEPT {
                said.pop_front();
            }
            said.push_back(line);
        }
    });
}
