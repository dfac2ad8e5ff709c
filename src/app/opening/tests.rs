use std::{path::PathBuf, sync::Arc};

use tokio::time::Instant;

use super::*;
use crate::kek::KekId;

fn kek_missing() -> Error {
    Error::Kek(kek::Error::File {
        file: PathBuf::from("/run/kek"),
        reason: "No such file or directory (os error 2)".to_owned(),
    })
}

/// Remembers when attempts were made. They end as `outcome` says, by the number of each.
struct Attempts<'a, F> {
    began: Instant,
    made: &'a mut Vec<Duration>,
    outcome: F,
}

impl<F: Fn(usize) -> Result<(), Error> + Send> Attempt for Attempts<'_, F> {
    async fn attempt(&mut self) -> Result<(), Error> {
        self.made.push(self.began.elapsed());
        (self.outcome)(self.made.len())
    }
}

async fn attempts(outcome: impl Fn(usize) -> Result<(), Error> + Send) -> Vec<Duration> {
    let mut made = Vec::new();
    keep_trying(Attempts {
        began: Instant::now(),
        made: &mut made,
        outcome,
    })
    .await;
    made
}

#[tokio::test(start_paused = true)]
async fn attempts_come_at_growing_intervals_that_are_bounded_and_end_with_success() {
    let made = attempts(|number| {
        if number < 200 {
            Err(kek_missing())
        } else {
            Ok(())
        }
    })
    .await;
    assert_eq!(made.len(), 200);
    let pauses: Vec<_> = made.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(
        (PAUSE_MIN..=2 * PAUSE_MIN).contains(&made[0]),
        "{:?}",
        made[0]
    );
    assert!(pauses[0] >= 2 * PAUSE_MIN, "{:?}", pauses[0]);
    let tick = Duration::from_millis(2);
    for pause in &pauses[4..] {
        assert!(
            (PAUSE_MAX..=2 * PAUSE_MAX + tick).contains(pause),
            "{pause:?}"
        );
    }
    let (shortest, longest) = (pauses[4..].iter().min(), pauses[4..].iter().max());
    assert!(
        longest
            .zip(shortest)
            .is_some_and(|(l, s)| *l - *s > PAUSE_MAX / 4),
        "no jitter: {shortest:?} to {longest:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_damaged_store_ends_the_attempts() {
    let made = attempts(|number| {
        Err(match number {
            1 => Error::Store(store::Error::InUse("/data".into())),
            2 => kek_missing(),
            _ => Error::Vault(vault::Error::Corrupt("a root that is cut off")),
        })
    })
    .await;
    assert_eq!(made.len(), 3);
}

#[test]
fn what_may_pass_is_tried_again_and_what_lies_in_the_store_is_not() {
    let kek = Arc::<str>::from("transit/kodo at bao.example");
    let reason = || "x".to_owned();
    let unavailable = kek::Error::Unavailable {
        kek: kek.clone(),
        reason: reason(),
    };
    let unusable = kek::Error::Unusable {
        kek,
        reason: reason(),
    };
    let unknown = || kek::Error::UnknownKek(KekId::parse("file-1").expect("an id"));
    let unopenable = || store::Error::Unopenable {
        directory: "/data".into(),
        reason: reason(),
    };
    let table = [
        (kek_missing(), Cause::Kek),
        (Error::Kek(unavailable), Cause::Kek),
        (Error::Kek(unusable), Cause::Kek),
        (Error::Vault(vault::Error::Kek(unknown())), Cause::Kek),
        (
            Error::Store(store::Error::InUse("/data".into())),
            Cause::InUse,
        ),
        (
            Error::Io(std::io::Error::other("the anchor file")),
            Cause::Anchor,
        ),
        (Error::Store(unopenable()), Cause::Store),
        (Error::Store(store::Error::Failed("x".into())), Cause::Store),
        // Under the right id and yet not to be opened: the store was changed.
        (Error::Vault(kek::Error::DoesNotOpen.into()), Cause::Store),
        (Error::Vault(vault::Error::Altered(reason())), Cause::Store),
        (Error::Vault(vault::Error::Older(reason())), Cause::Store),
        (Error::Vault(vault::Error::Newer(9)), Cause::Store),
    ];
    for (error, expected) in table {
        let found = cause(&error);
        assert_eq!(found, expected, "{error}");
        assert_eq!(found.may_pass(), expected != Cause::Store, "{error}");
    }
}
