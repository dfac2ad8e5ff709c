//! The command line of the broker: see `kodo-broker --help`.

use std::{io, process::ExitCode};

use clap::Parser as _;
use kodo_broker::cli::{self, Cli, Command, Console};

fn main() -> ExitCode {
    let Cli { options, command } = Cli::parse();
    match command {
        Command::Remote(command) => {
            // Locked only here: a server logs to these streams from many threads.
            let mut console = Console {
                input: &mut io::stdin().lock(),
                out: &mut io::stdout().lock(),
                err: &mut io::stderr().lock(),
            };
            cli::run(&options, command, &mut console)
        }
    }
}
