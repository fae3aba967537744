//! Congestion control of sessions: fills the chain of relays, but not its queues (PROTOCOL §6).
//!
//! Once a round trip the window moves towards the size at which a fixed, small delay stands in the queues: it grows
//! while the least delay of the round is below the target and shrinks in proportion above it. Losses count only when
//! they are many: relays drop a few packets of an honest stream by design. The delay is measured against the least
//! round trip of the last two epochs; once an epoch the sender empties its own queue to see it again. When a client
//! has moved to another tunnel, everything that was learnt on the old one is forgotten.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use phantom_protocol::limits::DATAGRAM;
use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

/// One full packet.
const PACKET: f64 = DATAGRAM as f64;

/// What can be tuned.
#[derive(Clone, Debug)]
pub struct CongestionConfig {
    /// The delay that a bulk stream lets stand in the queues.
    pub target: Duration,
    /// The window of a new tunnel, in bytes.
    pub initial_window: u64,
    /// The window never falls below this, in bytes.
    pub least_window: u64,
    /// The window never rises above this, in bytes.
    pub most_window: u64,
    /// The share of a round's bytes that may be lost without consequence.
    pub tolerated_loss: f64,
    /// How often the least round trip is measured anew.
    pub epoch: Duration,
    route: Arc<AtomicU64>,
}

impl Default for CongestionConfig {
    fn default() -> CongestionConfig {
        CongestionConfig {
            target: Duration::from_millis(4),
            initial_window: 60 * DATAGRAM as u64,
            // Several times what one ACK answers: below that the ACK comes by its timer only, the delay of which looks
            // like a queue, and the window would never grow again.
            least_window: 60 * DATAGRAM as u64,
            most_window: 32 << 20,
            tolerated_loss: 0.02,
            epoch: Duration::from_secs(10),
            route: Arc::default(),
        }
    }
}

impl CongestionConfig {
    /// The same, for a session whose moves to other tunnels `route` counts.
    pub(super) fn on_route(mut self, route: Arc<AtomicU64>) -> CongestionConfig {
        self.route = route;
        self
    }
}

impl ControllerFactory for CongestionConfig {
    fn build(self: Arc<Self>, now: Instant, _mtu: u16) -> Box<dyn Controller> {
        Box::new(BoundedDelay::new(self, now))
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// Doubling each round until the first queue or loss.
    Start,
    /// Holding the target.
    Hold,
    /// Emptying the own queue until the moment given; then back to the window given.
    Drain { until: Instant, back_to: f64 },
}

/// The controller of one path.
#[derive(Clone)]
struct BoundedDelay {
    config: Arc<CongestionConfig>,
    route: u64,
    phase: Phase,
    window: f64,
    round: Round,
    floor: Floor,
}

/// What is known of the round trip under way.
#[derive(Clone)]
struct Round {
    /// Ends with the first acknowledgement of a packet sent after this.
    since: Instant,
    least: Duration,
    acked: u64,
    lost: u64,
    /// Most bytes that were in flight: a window that is not used does not grow.
    in_flight: u64,
}

impl Round {
    fn new(since: Instant) -> Round {
        Round { since, least: Duration::MAX, acked: 0, lost: 0, in_flight: 0 }
    }

    fn loss(&self) -> f64 {
        self.lost as f64 / (self.lost + self.acked).max(1) as f64
    }
}

/// The least round trip of this epoch and the last.
#[derive(Clone)]
struct Floor {
    epoch: Instant,
    this: Duration,
    last: Duration,
}

impl Floor {
    fn new(now: Instant) -> Floor {
        Floor { epoch: now, this: Duration::MAX, last: Duration::MAX }
    }

    fn get(&self) -> Duration {
        self.this.min(self.last)
    }
}

impl BoundedDelay {
    fn new(config: Arc<CongestionConfig>, now: Instant) -> BoundedDelay {
        BoundedDelay {
            route: config.route.load(Ordering::Relaxed),
            phase: Phase::Start,
            window: config.initial_window as f64,
            round: Round::new(now),
            floor: Floor::new(now),
            config,
        }
    }

    fn acked(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool) {
        if self.config.route.load(Ordering::Relaxed) != self.route {
            *self = BoundedDelay::new(self.config.clone(), now);
            return; // this packet says nothing of the new tunnel
        }
        let sample = now.saturating_duration_since(sent);
        self.round.least = self.round.least.min(sample);
        self.floor.this = self.floor.this.min(sample);
        self.round.acked += bytes;
        if self.phase == Phase::Start && !app_limited {
            self.window += bytes as f64;
        }
        if sent >= self.round.since {
            self.end_round(now);
            self.round = Round::new(now);
        }
        self.clamp();
    }

    fn end_round(&mut self, now: Instant) {
        let queue = self.round.least.saturating_sub(self.floor.get());
        let crowded = self.round.loss() > self.config.tolerated_loss && self.round.lost as f64 > 3.0 * PACKET;
        match self.phase {
            Phase::Drain { until, back_to } if now >= until => {
                self.window = back_to;
                self.phase = Phase::Hold;
            }
            Phase::Drain { .. } => {}
            _ if crowded => {
                self.window *= 0.7;
                self.phase = Phase::Hold;
            }
            Phase::Start if queue > self.config.target / 2 => {
                self.window *= self.towards_target(queue).min(0.75);
                self.phase = Phase::Hold;
            }
            Phase::Start => {}
            Phase::Hold => self.hold(queue),
        }
        self.turn_epoch(now, queue);
    }

    /// Below the target up to an eighth more, above it straight down to what would meet it.
    fn hold(&mut self, queue: Duration) {
        let target = self.config.target.as_secs_f64();
        let distance = 1.0 - queue.as_secs_f64() / target;
        if distance < 0.0 {
            self.window *= self.towards_target(queue).max(0.7);
        } else if self.round.in_flight as f64 * 2.0 > self.window {
            self.window += (self.window / 8.0 * distance).max(PACKET * distance);
        }
    }

    /// The factor that would bring the round trip from what it is to floor and target.
    fn towards_target(&self, queue: Duration) -> f64 {
        let floor = self.floor.get();
        (floor + self.config.target).as_secs_f64()
            / (floor + queue).max(Duration::from_nanos(1)).as_secs_f64()
    }

    /// Once an epoch: forget the epoch before the last, and if this one never saw an empty queue, make one.
    fn turn_epoch(&mut self, now: Instant, queue: Duration) {
        if now.saturating_duration_since(self.floor.epoch) < self.config.epoch {
            return;
        }
        self.floor = Floor { epoch: now, this: self.round.least, last: self.floor.this };
        if self.phase == Phase::Hold && queue > self.config.target / 4 {
            let share = self.floor.get().as_secs_f64() / self.round.least.as_secs_f64().max(1e-9);
            self.phase =
                Phase::Drain { until: now + self.round.least + self.config.target, back_to: self.window };
            self.window *= (share * 0.75).min(0.75);
        }
    }

    fn clamp(&mut self) {
        self.window = self.window.clamp(self.config.least_window as f64, self.config.most_window as f64);
    }
}

impl Controller for BoundedDelay {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, _rtt: &RttEstimator) {
        self.acked(now, sent, bytes, app_limited);
    }

    fn on_end_acks(&mut self, _now: Instant, in_flight: u64, _app_limited: bool, _largest: Option<u64>) {
        self.round.in_flight = self.round.in_flight.max(in_flight);
    }

    fn on_congestion_event(&mut self, now: Instant, _sent: Instant, persistent: bool, lost: u64) {
        self.round.lost += lost;
        if persistent {
            let route = self.route;
            *self = BoundedDelay { route, ..BoundedDelay::new(self.config.clone(), now) };
        }
    }

    fn on_mtu_update(&mut self, _mtu: u16) {} // every tunnel carries the same

    fn window(&self) -> u64 {
        let moved = self.config.route.load(Ordering::Relaxed) != self.route;
        // What the old tunnel has swallowed does not fill the new one.
        if moved { self.window as u64 * 2 + self.config.initial_window } else { self.window as u64 }
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.config.initial_window
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn the_least_window_is_acknowledged_without_waiting_for_a_timer() {
        let config = CongestionConfig::default();
        let answered = u64::from(super::super::transport::ACK_EVERY) * DATAGRAM as u64;
        assert!(config.least_window >= 3 * answered);
        assert!(config.initial_window >= config.least_window);
    }

    /// A bottleneck in virtual time: packets are served one by one at `rate`, wait in a queue of `room` bytes, and are
    /// acknowledged a base round trip later.
    struct Bottleneck {
        rate: f64,
        base: Duration,
        room: f64,
        loss: f64,
        seed: u64,
    }

    struct Outcome {
        /// Of the bottleneck's rate, over the second half.
        share: f64,
        /// Standing queue over the second half: median and worst.
        median: Duration,
        worst: Duration,
    }

    impl Bottleneck {
        fn new(rate: f64, base: Duration) -> Bottleneck {
            Bottleneck { rate, base, room: 4e6, loss: 0.0, seed: 1 }
        }

        fn random(&mut self) -> f64 {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.seed >> 33) as f64 / f64::from(1u32 << 31)
        }

        /// A sender that always has more to send, for `length`.
        fn run(mut self, config: CongestionConfig, length: Duration) -> Outcome {
            let start = Instant::now();
            let mut now = start;
            let mut cc = BoundedDelay::new(Arc::new(config), now);
            let (mut in_flight, mut free_at) = (0.0, start);
            let mut flying: VecDeque<(Instant, Instant, bool)> = VecDeque::new(); // sent, answered at, lost
            let (mut delivered, mut queues) = (0.0, Vec::new());
            while now < start + length {
                while in_flight + PACKET < cc.window() as f64 {
                    let queue = free_at.saturating_duration_since(now);
                    let lost = queue.as_secs_f64() * self.rate > self.room || self.random() < self.loss;
                    if !lost {
                        free_at = free_at.max(now) + Duration::from_secs_f64(PACKET / self.rate);
                    }
                    flying.push_back((now, free_at.max(now) + self.base, lost));
                    in_flight += PACKET;
                    if now > start + length / 2 {
                        queues.push(queue);
                    }
                }
                let Some((sent, answered, lost)) = flying.pop_front() else { break };
                now = now.max(answered);
                in_flight -= PACKET;
                if lost {
                    cc.on_congestion_event(now, sent, false, PACKET as u64);
                } else {
                    cc.acked(now, sent, PACKET as u64, false);
                    if now > start + length / 2 {
                        delivered += PACKET;
                    }
                }
                cc.on_end_acks(now, in_flight as u64, false, None);
            }
            queues.sort();
            Outcome {
                share: delivered / (length / 2).as_secs_f64() / self.rate,
                median: queues[queues.len() / 2],
                worst: queues[queues.len() - 1],
            }
        }
    }

    const LOOPBACK: Duration = Duration::from_micros(400);

    #[test]
    fn a_loopback_chain_is_filled_and_its_queue_stays_short() {
        let outcome =
            Bottleneck::new(130e6, LOOPBACK).run(CongestionConfig::default(), Duration::from_secs(4));
        assert!(outcome.share > 0.97, "{}", outcome.share);
        assert!(outcome.median < Duration::from_millis(6), "{:?}", outcome.median);
        assert!(outcome.worst < Duration::from_millis(10), "{:?}", outcome.worst);
    }

    #[test]
    fn a_long_chain_is_filled_too() {
        let outcome = Bottleneck::new(5e6, Duration::from_millis(300))
            .run(CongestionConfig::default(), Duration::from_secs(60));
        assert!(outcome.share > 0.9, "{}", outcome.share);
        assert!(outcome.median < Duration::from_millis(8), "{:?}", outcome.median);
    }

    #[test]
    fn a_few_random_losses_cost_nothing() {
        let mut link = Bottleneck::new(130e6, LOOPBACK);
        link.loss = 0.01;
        let outcome = link.run(CongestionConfig::default(), Duration::from_secs(4));
        assert!(outcome.share > 0.95, "{}", outcome.share);
    }

    #[test]
    fn many_losses_slow_the_sender_down() {
        // Its product of rate and round trip is several times the least window, below which nothing slows down.
        let mut link = Bottleneck::new(130e6, Duration::from_millis(4));
        link.loss = 0.2;
        let outcome = link.run(CongestionConfig::default(), Duration::from_secs(2));
        assert!(outcome.share < 0.9, "{}", outcome.share);
    }

    #[test]
    fn a_bottleneck_without_a_queue_is_shared_not_flooded() {
        let mut link = Bottleneck::new(20e6, Duration::from_millis(20));
        link.room = 40e3; // 2 ms: the target is never reached, only losses tell
        let outcome = link.run(CongestionConfig::default(), Duration::from_secs(20));
        assert!(outcome.share > 0.6, "{}", outcome.share);
    }

    #[test]
    fn the_least_round_trip_is_found_again_under_load() {
        let config = CongestionConfig { epoch: Duration::from_secs(1), ..CongestionConfig::default() };
        let outcome = Bottleneck::new(50e6, LOOPBACK).run(config, Duration::from_secs(30));
        assert!(outcome.median < Duration::from_millis(6), "the queue crept up to {:?}", outcome.median);
        assert!(outcome.share > 0.95, "{}", outcome.share);
    }

    #[test]
    fn a_moved_session_starts_anew_and_is_not_held_back_by_what_was_lost() {
        let route = Arc::new(AtomicU64::new(0));
        let config = Arc::new(CongestionConfig::default().on_route(route.clone()));
        let now = Instant::now();
        let mut cc = BoundedDelay::new(config.clone(), now);
        cc.window = 1e6;
        cc.floor.this = Duration::from_millis(1);
        route.store(1, Ordering::Relaxed);
        assert!(cc.window() > 2_000_000, "a full window is in flight on the dead tunnel");
        cc.acked(now + Duration::from_millis(50), now, 1_312, false);
        assert_eq!(cc.window(), config.initial_window);
        assert_eq!((cc.phase, cc.floor.get()), (Phase::Start, Duration::MAX));
    }

    #[test]
    fn an_unused_window_does_not_grow() {
        let now = Instant::now();
        let mut cc = BoundedDelay::new(Arc::new(CongestionConfig::default()), now);
        for ms in 1..2_000 {
            let at = now + Duration::from_millis(ms);
            cc.acked(at, at - Duration::from_micros(500), 1_312, true);
            cc.on_end_acks(at, 0, true, None);
        }
        assert_eq!(cc.window(), CongestionConfig::default().initial_window);
    }
}
