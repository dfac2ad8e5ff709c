//! Labels on the command line: `key=value`. What they may be of, the broker tells.

use std::collections::BTreeMap;

use clap::Args;

use super::super::error::Error;

/// A key with its value.
pub(super) type Pair = (String, String);

/// Labels that something is to have.
#[derive(Debug, Args)]
pub struct LabelArguments {
    /// Label as in msp=northwind; may be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<Pair>,
}

impl LabelArguments {
    /// All of them.
    pub(super) fn map(self) -> Result<BTreeMap<String, String>, Error> {
        let mut map = BTreeMap::new();
        for (key, value) in self.labels {
            if map.insert(key.clone(), value).is_some() {
                return Err(Error::usage(format!("`--label {key}=…` is there twice")));
            }
        }
        Ok(map)
    }
}

fn pair(text: &str) -> Result<Pair, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => Err("must be a key and a value like msp=northwind".to_owned()),
    }
}
