//! Whether others reach this node where it says that it is (PROTOCOL §7.6).
//!
//! A node serves in the paths of others only when it can be dialled, and cannot know that by itself. So it asks a
//! neighbour to knock at its door, one after the other until one gets in. A neighbour that says yes though it is not
//! true makes a few dials fail, and nothing else; one that says no though it is not true is one among several. Whoever
//! comes in from elsewhere has proved it, too.
//!
//! One who knows nobody takes itself for reachable: its record comes only to those who have come in.

use std::collections::BTreeMap;

use crate::{
    limits::{
        KNOCK_AGAIN, KNOCK_PAUSE, KNOCK_PAUSE_MOST, KNOCK_TIMEOUT, KNOCKS_QUICK, PROOF_LIFE, PROOF_RENEW,
        PROOF_VAIN,
    },
    time::Moment,
    wire::cell::LinkId,
};

/// Whether a node that listens serves in the paths of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Relay {
    /// When it was reached from elsewhere.
    #[default]
    Auto,
    /// Without a proof.
    Always,
    /// Not at all.
    Never,
}

/// What is known of it.
pub(super) struct Reachability {
    /// When somebody reached this node last.
    proven: Option<Moment>,
    /// Knocks since then that nobody heard.
    vain: u32,
    /// Who is asked, and until when an answer counts.
    asked: Option<(LinkId, Moment)>,
    /// When those neighbours were asked that still stand.
    asked_before: BTreeMap<LinkId, Moment>,
    ask_at: Moment,
    /// All links were lost since the last proof: the way to this node may have changed with them.
    is_doubtful: bool,
}

impl Reachability {
    pub(super) fn new(now: Moment, knows_nobody: bool) -> Reachability {
        Reachability {
            proven: knows_nobody.then_some(now),
            vain: 0,
            asked: None,
            asked_before: BTreeMap::new(),
            ask_at: if knows_nobody { now + PROOF_RENEW } else { now },
            is_doubtful: false,
        }
    }

    /// Whether the last proof still counts.
    pub(super) fn is_proven(&self, now: Moment) -> bool {
        self.proven.is_some_and(|proven| now.since(proven) < PROOF_LIFE || self.vain < PROOF_VAIN)
    }

    /// Knocks in vain since the last proof.
    pub(super) fn vain(&self) -> u32 {
        self.vain
    }

    /// Somebody has come in from elsewhere.
    pub(super) fn handle_visit(&mut self, now: Moment) {
        self.proven = Some(now);
        self.vain = 0;
        self.is_doubtful = false;
        self.ask_at = now + PROOF_RENEW;
    }

    /// There is one more neighbour to ask.
    pub(super) fn handle_link_up(&mut self, now: Moment) {
        if self.vain == 0 && (self.proven.is_none() || self.is_doubtful) {
            self.ask_at = self.ask_at.min(now);
        }
    }

    /// A link is gone; `is_last` if there is none left.
    pub(super) fn handle_link_down(&mut self, now: Moment, link: LinkId, is_last: bool) {
        self.asked_before.remove(&link);
        if self.asked.is_some_and(|(asked, _)| asked == link) {
            // It says nothing about this node's door.
            self.asked = None;
            self.ask_at = now;
        }
        self.is_doubtful |= is_last;
    }

    /// A neighbour says whether it has reached this node. What nobody has asked it does not count.
    pub(super) fn handle_answer(&mut self, now: Moment, link: LinkId, reached: bool) {
        if self.asked.is_none_or(|(asked, _)| asked != link) {
            return;
        }
        self.asked = None;
        if reached { self.handle_visit(now) } else { self.handle_vain(now) }
    }

    /// Whom to ask now. Not `links` that were asked lately.
    pub(super) fn poll_ask(
        &mut self,
        now: Moment,
        mut links: impl Iterator<Item = LinkId>,
    ) -> Option<LinkId> {
        if self.asked.is_some_and(|(_, until)| until <= now) {
            self.asked = None;
            self.handle_vain(now);
        }
        if self.asked.is_some() || now < self.ask_at {
            return None;
        }
        let rested = |link: &LinkId| {
            self.asked_before.get(link).is_none_or(|before| now.since(*before) >= KNOCK_AGAIN)
        };
        let Some(link) = links.find(rested) else {
            self.ask_at = now + KNOCK_TIMEOUT;
            return None;
        };
        self.asked = Some((link, now + KNOCK_TIMEOUT));
        self.asked_before.insert(link, now);
        Some(link)
    }

    /// When something may change by itself.
    pub(super) fn next_timeout(&self, now: Moment) -> Moment {
        let lapses = self.proven.map(|proven| proven + PROOF_LIFE).filter(|lapses| now < *lapses);
        let next = self.asked.map_or(self.ask_at, |(_, until)| until);
        lapses.map_or(next, |lapses| lapses.min(next))
    }

    fn handle_vain(&mut self, now: Moment) {
        let doublings = self.vain.saturating_sub(KNOCKS_QUICK).min(16);
        let pause = KNOCK_PAUSE.saturating_mul(1 << doublings).min(KNOCK_PAUSE_MOST);
        self.vain = self.vain.saturating_add(1);
        self.ask_at = now + pause;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const START: Moment = Moment(1_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    fn links(numbers: std::ops::Range<u64>) -> impl Iterator<Item = LinkId> {
        numbers.map(|number| LinkId(LinkId::FIRST + number))
    }

    fn first() -> LinkId {
        LinkId(LinkId::FIRST)
    }

    /// Proven at the start.
    fn proven() -> Reachability {
        let mut reachability = Reachability::new(START, false);
        reachability.handle_visit(START);
        reachability
    }

    /// Lets seconds pass in which every neighbour answers `answer`; how often one was asked.
    fn ask_around(
        reachability: &mut Reachability,
        from: Moment,
        seconds: u32,
        answer: Option<bool>,
    ) -> usize {
        let mut asked = 0;
        for second in 0..seconds {
            let now = from + SECOND * second;
            if let Some(link) = reachability.poll_ask(now, links(0..50)) {
                asked += 1;
                if let Some(answer) = answer {
                    reachability.handle_answer(now, link, answer);
                }
            }
        }
        asked
    }

    #[test]
    fn one_who_knows_nobody_takes_itself_for_reachable_and_a_newcomer_asks_the_first_it_meets() {
        assert!(Reachability::new(START, true).is_proven(START));
        let mut newcomer = Reachability::new(START, false);
        assert!(!newcomer.is_proven(START));
        assert_eq!(newcomer.poll_ask(START, links(0..0)), None);
        let now = START + Duration::from_millis(10);
        newcomer.handle_link_up(now);
        assert_eq!(newcomer.poll_ask(now, links(0..1)), Some(first()));
        assert_eq!(newcomer.poll_ask(now, links(0..1)), None, "one at a time");
        newcomer.handle_answer(now, first(), true);
        assert!(newcomer.is_proven(now));
    }

    #[test]
    fn after_a_no_somebody_else_is_asked_and_silence_is_a_no() {
        let mut node = Reachability::new(START, false);
        assert_eq!(node.poll_ask(START, links(0..2)), Some(first()));
        node.handle_answer(START, first(), false);
        assert_eq!(node.poll_ask(START, links(0..2)), None, "after a pause");
        let second = START + KNOCK_PAUSE;
        assert_eq!(node.poll_ask(second, links(0..2)), links(1..2).next());
        let later = second + KNOCK_TIMEOUT;
        assert_eq!(node.poll_ask(later, links(0..2)), None);
        assert_eq!(node.vain(), 2);
        assert_eq!(node.poll_ask(later + KNOCK_AGAIN, links(0..2)), Some(first()), "it may know better now");
    }

    #[test]
    fn an_answer_that_nobody_asked_for_says_nothing() {
        let mut node = Reachability::new(START, false);
        node.handle_answer(START, first(), true);
        assert!(!node.is_proven(START));
        assert!(node.poll_ask(START, links(0..1)).is_some());
        node.handle_answer(START, LinkId(LinkId::FIRST + 7), true);
        node.handle_answer(START + KNOCK_TIMEOUT, LinkId(LinkId::FIRST + 7), true);
        assert!(!node.is_proven(START));
    }

    #[test]
    fn the_proof_is_renewed_every_hour() {
        let mut node = proven();
        assert_eq!(ask_around(&mut node, START, 6 * 3_600, Some(true)), 5);
        assert!(node.is_proven(START + SECOND * 6 * 3_600));
    }

    #[test]
    fn whoever_comes_in_saves_the_question() {
        let mut node = proven();
        for minute in 0..600 {
            let now = START + SECOND * 60 * minute;
            node.handle_visit(now);
            assert_eq!(node.poll_ask(now, links(0..5)), None);
        }
    }

    #[test]
    fn the_proof_lapses_when_nobody_gets_in_any_more_and_not_before() {
        let mut node = proven();
        let asked = ask_around(&mut node, START, 3 * 3_600, Some(false));
        assert!((10..60).contains(&asked), "asked {asked} times");
        assert!(!node.is_proven(START + PROOF_LIFE));
        assert!(node.is_proven(START + PROOF_LIFE - SECOND));
        let again = START + PROOF_LIFE + KNOCK_AGAIN;
        let link = node.poll_ask(again, links(0..50)).unwrap();
        node.handle_answer(again, link, true);
        assert!(node.is_proven(again));
    }

    #[test]
    fn nobody_to_ask_is_no_denial() {
        let mut node = proven();
        for hour in 0..100 {
            let now = START + SECOND * 3_600 * hour;
            assert_eq!(node.poll_ask(now, links(0..0)), None);
            assert!(node.is_proven(now));
        }
    }

    #[test]
    fn when_all_links_were_lost_the_next_neighbour_is_asked_at_once() {
        let mut node = proven();
        let now = START + SECOND * 60;
        node.handle_link_up(now);
        assert_eq!(node.poll_ask(now, links(0..1)), None);
        node.handle_link_down(now, first(), true);
        node.handle_link_up(now + SECOND);
        assert_eq!(node.poll_ask(now + SECOND, links(1..2)), links(1..2).next());
    }

    #[test]
    fn a_lost_link_is_no_answer() {
        let mut node = Reachability::new(START, false);
        assert_eq!(node.poll_ask(START, links(0..1)), Some(first()));
        node.handle_link_down(START, first(), false);
        assert_eq!(node.vain(), 0);
        assert_eq!(node.poll_ask(START, links(1..2)), links(1..2).next());
    }

    #[test]
    fn it_asks_when_it_says_and_time_never_stands_still() {
        for answer in [None, Some(false), Some(true)] {
            let mut node = Reachability::new(START, false);
            let mut now = START;
            for _ in 0..1_000 {
                if let Some(link) = node.poll_ask(now, links(0..3))
                    && let Some(answer) = answer
                {
                    node.handle_answer(now, link, answer);
                }
                let next = node.next_timeout(now);
                assert!(next > now, "{answer:?}");
                now = next;
            }
        }
    }
}
