//! Figures for operators, in OpenMetrics text.
//!
//! Labels have few values: RPCs and reasons, never an organization or a caller. What the path of a
//! warm token touches is found once and held ([`Metrics::token_handed_out`]): no look-up by label,
//! one atomic and one short lock a call.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::Registry,
};

/// Begins the name of every figure.
const PREFIX: &str = "kodo_broker";
/// What the text is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The figures.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    calls: Family<Call, Counter>,
    /// Calls that gave a token, which is one of `calls`.
    tokens: Counter,
    hit: Histogram,
    miss: Histogram,
    walks: Counter,
    reloads: Family<Reloads, Counter>,
    /// Open connections of callers.
    pub connections: Gauge,
    /// Connections closed since their client floods.
    pub floods: Counter,
    identity_headers: Family<IdentityHeader, Counter>,
    unidentified: Family<Unidentified, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IdentityHeader {
    header: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Unidentified {
    reason: &'static str,
}

/// Labels of a call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    rpc: &'static str,
    /// `OK` or the reason.
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Source {
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reloads {
    outcome: &'static str,
}

/// What became of changed files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// They are in force.
    Taken,
    /// They cannot be used.
    Refused,
}

/// Where a token came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// It was there.
    Hit,
    /// It was waited for.
    Miss,
}

impl Metrics {
    /// All figures at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let calls = Family::<Call, Counter>::default();
        registry.register("calls", "Calls answered, by RPC and outcome", calls.clone());
        let seconds =
            Family::<Source, Histogram, _>::new_with_constructor(histogram as fn() -> Histogram);
        registry.register_with_unit(
            "get_token_duration",
            "Time from a request to its answer, for tokens that were handed out",
            prometheus_client::registry::Unit::Seconds,
            seconds.clone(),
        );
        let reloads = Family::<Reloads, Counter>::default();
        registry.register(
            "reloads",
            "Changes of files that were put in force (taken) or could not be (refused)",
            reloads.clone(),
        );
        let connections = Gauge::default();
        registry.register(
            "connections",
            "Open connections of callers",
            connections.clone(),
        );
        let floods = Counter::default();
        registry.register(
            "floods",
            "Connections closed since the client sent many more frames than calls",
            floods.clone(),
        );
        let identity_headers = Family::<IdentityHeader, Counter>::default();
        registry.register(
            "identity_headers_ignored",
            "Calls with a header that says who the caller is, and that identity.mode does not believe",
            identity_headers.clone(),
        );
        let unidentified = Family::<Unidentified, Counter>::default();
        registry.register(
            "callers_unidentified",
            "Connections, or calls through a proxy, of whom nobody knows, by reason",
            unidentified.clone(),
        );
        let walks = Counter::default();
        registry.register(
            "organization_walks",
            "How often a caller asked about more organizations within an hour than it should",
            walks.clone(),
        );
        let tokens = calls.get_or_create_owned(&Call {
            rpc: "GetToken",
            outcome: "OK",
        });
        let of = |source| seconds.get_or_create_owned(&Source { source });
        let (hit, miss) = (of("hit"), of("miss"));
        Self {
            registry: Mutex::new(registry),
            calls,
            tokens,
            hit,
            miss,
            walks,
            reloads,
            connections,
            floods,
            identity_headers,
            unidentified,
        }
    }

    /// Counts a call. `outcome` is `OK` or the reason.
    pub fn called(&self, rpc: &'static str, outcome: &'static str) {
        self.calls.get_or_create(&Call { rpc, outcome }).inc();
    }

    /// Counts a `GetToken` that was answered with a token.
    pub fn token_handed_out(&self, cache: Cache, after: Duration) {
        self.tokens.inc();
        let histogram = match cache {
            Cache::Hit => &self.hit,
            Cache::Miss => &self.miss,
        };
        histogram.observe(after.as_secs_f64());
    }

    /// Counts a call with a header that another mode of identification would believe.
    pub fn identity_header_ignored(&self, header: &'static str) {
        let counter = self
            .identity_headers
            .get_or_create(&IdentityHeader { header });
        counter.inc();
    }

    /// Counts somebody who is nobody, by why.
    pub fn unidentified(&self, reason: &'static str) {
        let counter = self.unidentified.get_or_create(&Unidentified { reason });
        counter.inc();
    }

    /// Counts a caller that walks more organizations than it should.
    pub fn walks(&self) {
        self.walks.inc();
    }

    /// Counts changed files.
    pub fn reloaded(&self, reload: Reload) {
        let outcome = match reload {
            Reload::Taken => "taken",
            Reload::Refused => "refused",
        };
        self.reloads.get_or_create(&Reloads { outcome }).inc();
    }

    /// Adds a figure that is read when it is asked for.
    pub fn gauge(
        &self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> usize + Send + Sync + 'static,
    ) {
        let reading = Reading {
            name,
            help,
            read: Box::new(read),
        };
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register_collector(Box::new(reading));
    }

    /// All figures as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut all = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a string does not fail.
        let _ = text::encode(&mut all, &registry);
        all
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// A gauge whose value somebody else keeps.
struct Reading {
    name: &'static str,
    help: &'static str,
    read: Box<dyn Fn() -> usize + Send + Sync>,
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Collector for Reading {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let gauge = ConstGauge::new(i64::try_from((self.read)()).unwrap_or(i64::MAX));
        let metric = encoder.encode_descriptor(self.name, self.help, None, gauge.metric_type())?;
        gauge.encode(metric)
    }
}

/// From 10 µs, which a hit takes, to the 60 s that a call may take.
fn histogram() -> Histogram {
    Histogram::new([
        0.000_01, 0.000_025, 0.000_1, 0.000_5, 0.0025, 0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0,
    ])
}

#[cfg(test)]
mod tests;
