//! Several servers under the same load, by turns, and the ratios of what was measured one after the
//! other: the machine's mood, which changes by the minute, cancels out.

use crate::{
    Failure,
    call::Target,
    load::{self, Load, Sample, Timing},
};

/// What was measured of one server, round by round.
#[derive(Debug)]
pub(crate) struct Series(Vec<Sample>);

/// A median and the quartiles around it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

/// How often and how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounds {
    pub(crate) count: usize,
    pub(crate) timing: Timing,
}

/// Asks each server once a round, in reverse order every other round. The series are in the order of
/// the targets.
pub(crate) fn interleaved(
    targets: &[Target],
    load: Load,
    rounds: Rounds,
) -> Result<Vec<Series>, Failure> {
    let mut series: Vec<_> = targets.iter().map(|_| Series(Vec::new())).collect();
    for round in 0..rounds.count {
        let mut order: Vec<_> = (0..targets.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for at in order {
            series[at]
                .0
                .push(load::run(&targets[at], load, rounds.timing)?);
        }
    }
    Ok(series)
}

impl Series {
    pub(crate) fn of(&self, what: impl Fn(&Sample) -> f64) -> Spread {
        Spread::of(self.0.iter().map(what).collect())
    }

    /// How much more it is than that of another server, by rounds.
    pub(crate) fn over(&self, other: &Self, what: impl Fn(&Sample) -> f64) -> Spread {
        let pairs = self.0.iter().zip(&other.0);
        Spread::of(
            pairs
                .map(|(ours, theirs)| what(ours) / what(theirs))
                .collect(),
        )
    }
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self {
            low: quantile(&values, 0.25),
            median: quantile(&values, 0.5),
            high: quantile(&values, 0.75),
        }
    }
}

/// Of sorted values, with linear interpolation.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index of some rounds"
)]
fn quantile(values: &[f64], q: f64) -> f64 {
    let at = q * (values.len() - 1) as f64;
    let below = values[at.floor() as usize];
    let above = values[at.ceil() as usize];
    below + (above - below) * at.fract()
}
