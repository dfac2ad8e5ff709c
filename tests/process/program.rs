//! Runs of the executable: one that ends by itself, and one that goes on and is watched.

use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// The executable of this build.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_kodo-broker");
/// What is not there by then will not come; long enough for a machine that compiles meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a run ended and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// The single line that says why it failed.
    pub(crate) fn error(&self) -> &str {
        let mut errors = self.err.lines().filter(|line| line.starts_with("error:"));
        match (errors.next(), errors.next()) {
            (Some(line), None) => line,
            _ => panic!("not one error line: {self:?}"),
        }
    }

    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }
}

/// The executable with nothing of this process's environment that it heeds.
pub(crate) fn command() -> Command {
    let mut command = Command::new(PROGRAM);
    command.env_remove("KODO_BROKER_CONNECTION");
    command
}

/// Runs to the end.
pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Ended {
    run_with_input(arguments, b"")
}

/// Runs to the end with this on standard input.
pub(crate) fn run_with_input<S: AsRef<std::ffi::OsStr>>(arguments: &[S], input: &[u8]) -> Ended {
    let mut command = command();
    command.args(arguments);
    finish(command, input)
}

/// Runs a line as a shell does.
pub(crate) fn run_shell(line: &str, folder: &Path) -> Ended {
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(folder);
    command.env_remove("KODO_BROKER_CONNECTION");
    finish(command, b"")
}

pub(crate) fn finish(mut command: Command, input: &[u8]) -> Ended {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // Whoever does not read its input is not to be waited for: all inputs fit into the pipe.
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output().expect("the program ends");
    let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
    Ended {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// A run that goes on. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pub(crate) out: Stream,
    pub(crate) err: Stream,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let out = Stream::follow(child.stdout.take().expect("a pipe"));
        let err = Stream::follow(child.stderr.take().expect("a pipe"));
        Self { child, out, err }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, by its name without SIG.
    pub(crate) fn signal(&self, name: &str) {
        // The shell's own, which is there wherever a shell is.
        let line = format!("kill -{name} {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &line]).status();
        assert!(sent.expect("a shell").success(), "{line}");
    }

    /// Ends it at once, without a chance to write anything more.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it is still running");
        self.child.wait().expect("it was started by us");
    }

    /// Waits for the end, and for all that was said until then.
    pub(crate) fn ended(mut self) -> Ended {
        let status = self.status();
        Ended {
            code: status.code(),
            out: self.out.rest(),
            err: self.err.rest(),
        }
    }

    fn status(&mut self) -> ExitStatus {
        let status = poll("the program ends", || {
            self.child.try_wait().expect("it was started by us")
        });
        self.out.join();
        self.err.join();
        status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, mostly.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks again and again until there is an answer.
pub(crate) fn poll<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "another process's time cannot be paused"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// What a running program writes to one of its streams.
#[derive(Debug)]
pub(crate) struct Stream {
    said: Arc<Said>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Said {
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    is_over: bool,
}

impl Stream {
    fn follow(stream: impl Read + Send + 'static) -> Self {
        let said = Arc::<Said>::default();
        let reader = thread::spawn({
            let said = said.clone();
            move || {
                let mut stream = BufReader::new(stream);
                let mut line = Vec::new();
                while stream
                    .read_until(b'\n', &mut line)
                    .is_ok_and(|read| read > 0)
                {
                    let text = String::from_utf8_lossy(&line).into_owned();
                    said.lines
                        .lock()
                        .expect("no reader panics")
                        .lines
                        .push(text);
                    said.more.notify_all();
                    line.clear();
                }
                said.lines.lock().expect("no reader panics").is_over = true;
                said.more.notify_all();
            }
        });
        Self {
            said,
            reader: Some(reader),
        }
    }

    /// Waits for a line, and returns all up to it.
    pub(crate) fn until(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>, String> {
        let began = now();
        let mut seen = 0;
        let mut lines = self.said.lines.lock().expect("no reader panics");
        loop {
            while seen < lines.lines.len() {
                seen += 1;
                if wanted(&lines.lines[seen - 1]) {
                    return Ok(lines.lines[..seen].to_vec());
                }
            }
            let patience = PATIENCE.saturating_sub(began.elapsed());
            if lines.is_over || patience.is_zero() {
                return Err(lines.lines.concat());
            }
            let waited = self.said.more.wait_timeout(lines, patience);
            lines = waited.expect("no reader panics").0;
        }
    }

    fn join(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("no reader panics");
        }
    }

    fn rest(&self) -> String {
        self.said
            .lines
            .lock()
            .expect("no reader panics")
            .lines
            .concat()
    }
}
