use std::time::Duration;

use proptest::prelude::*;
use tokio::time::advance;

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const FRAMES_MAX: usize = (CREDIT_MAX / FRAME) as usize;

fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
    let length = u32::try_from(payload).expect("short").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
    frame.resize(HEADER_BYTES + payload, 0);
    frame
}

/// A meter of a client that has sent its preface.
fn meter() -> Meter {
    let mut meter = Meter::new();
    meter.received(PREFACE).expect("no frame yet");
    assert!(!meter.heard());
    meter
}

/// How many of these are taken.
fn taken(meter: &mut Meter, frame: &[u8]) -> usize {
    let taken = (0..10_000)
        .take_while(|_| meter.received(frame).is_ok())
        .count();
    // The rest of the one that was not taken does not follow.
    meter.skip = 0;
    taken
}

#[tokio::test(start_paused = true)]
async fn frames_that_bring_no_call_on_are_limited_and_time_earns_some() {
    for (kind, flags, payload) in [
        (PING, 0, 8),
        (SETTINGS, 0, 0),
        (SETTINGS, 1, 0),
        (2, 0, 5),
        (3, 0, 4),
        (8, 0, 4),
        (9, 0, 10),
        (0xfa, 0, 100),
        (DATA, 0, 0),
        (DATA, 0, 255),
    ] {
        let frame = frame(kind, flags, payload);
        let mut meter = meter();
        assert_eq!(taken(&mut meter, &frame), FRAMES_MAX, "type {kind}");
        advance(Duration::from_secs(1)).await;
        let later = taken(&mut meter, &frame);
        assert!((38..=40).contains(&later), "{later} a second");
        advance(Duration::from_secs(100_000)).await;
        assert_eq!(taken(&mut meter, &frame), FRAMES_MAX, "type {kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_and_what_is_sent_earn_what_a_client_needs_for_them() {
    let mut meter = meter();
    for _ in 0..10_000 {
        meter
            .received(&frame(HEADERS, 4, 60))
            .expect("calls are no flood");
        meter
            .received(&frame(DATA, 0, 20))
            .expect("nor their messages");
        meter
            .received(&frame(DATA, END_STREAM, 0))
            .expect("nor their ends");
        for _ in 0..7 {
            meter
                .received(&frame(PING, 0, 8))
                .expect("nor a few others for each");
        }
    }
    // A download: two windows are widened for each 4 KiB, and the round trip is asked for.
    for _ in 0..10_000 {
        meter.sent(4096);
        for _ in 0..3 {
            meter.received(&frame(8, 0, 4)).expect("it is answered so");
        }
    }
    assert_eq!(taken(&mut meter, &frame(DATA, 0, 256)), 10_000, "bodies");
}

proptest! {
    /// Whatever the pieces that it comes in.
    #[test]
    fn frames_are_counted_wherever_they_are_cut(
        frames in prop::collection::vec((0..12_u8, 0..2_u8, 0..600_usize), 0..60),
        piece in 1..700_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let _inside = runtime.as_ref().expect("a runtime").enter();
        let mut bytes = PREFACE.to_vec();
        let mut expected = CREDIT_MAX;
        for (kind, flags, payload) in &frames {
            bytes.extend(frame(*kind, *flags, *payload));
            if *kind == HEADERS {
                expected = CREDIT_MAX.min(expected + CALL);
            } else if *kind != DATA || (*payload < 256 && flags & END_STREAM == 0) {
                expected -= FRAME;
            }
        }
        let mut meter = Meter::new();
        for piece in bytes.chunks(piece) {
            meter.received(piece).expect("too few for a flood");
        }
        prop_assert_eq!(meter.credit, expected);
        prop_assert_eq!(meter.heard(), !frames.is_empty());
        prop_assert_eq!((meter.skip, meter.header_bytes), (0, 0));
    }
}
