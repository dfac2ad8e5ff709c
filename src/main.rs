//! The command line of the broker: see `kodo-broker --help`.

use std::{io, process::ExitCode};

use clap::Parser as _;
use kodo_broker::cli::{self, Cli, Command, Console};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut console = Console {
        input: &mut io::stdin().lock(),
        out: &mut io::stdout().lock(),
        err: &mut io::stderr().lock(),
    };
    match cli.command {
        Command::Remote(command) => cli::run(&cli.options, command, &mut console),
    }
}
