//! How often news about one record go out: at once, and then at most every five seconds (PROTOCOL §7).
//!
//! What comes in between waits and is sent once, as the newest version: so a node that signs in a frenzy floods
//! nobody, and everybody still learns its last word.

use std::collections::{BTreeMap, VecDeque};

use super::view::RecordKey;
use crate::{limits::FORWARD_PAUSE, time::Moment, wire::cell::LinkId};

/// News to be passed on to all partners but the one who brought them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct News {
    pub(super) key: RecordKey,
    pub(super) from: Option<LinkId>,
}

/// Which records were news lately.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Records whose pause lasts, with the news that came since it began.
    quiet: BTreeMap<RecordKey, Option<News>>,
    /// When those pauses end, in order, since all are equally long.
    ends: VecDeque<(Moment, RecordKey)>,
}

impl Pace {
    /// Gives the news back if they may go out now.
    pub(super) fn handle_news(&mut self, now: Moment, news: News) -> Option<News> {
        if let Some(waiting) = self.quiet.get_mut(&news.key) {
            *waiting = Some(news);
            return None;
        }
        self.begin_pause(now, news.key);
        Some(news)
    }

    /// Gives news whose pause has ended; to be called until it gives none.
    pub(super) fn handle_timeout(&mut self, now: Moment) -> Option<News> {
        while self.next_timeout()? <= now {
            let (_, key) = self.ends.pop_front()?;
            if let Some(news) = self.quiet.remove(&key).flatten() {
                self.begin_pause(now, key);
                return Some(news);
            }
        }
        None
    }

    /// When the next pause ends.
    pub(super) fn next_timeout(&self) -> Option<Moment> {
        self.ends.front().map(|(end, _)| *end)
    }

    fn begin_pause(&mut self, now: Moment, key: RecordKey) {
        self.quiet.insert(key, None);
        self.ends.push_back((now + FORWARD_PAUSE, key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::NodeId;

    fn news(link: u64) -> News {
        News { key: RecordKey::Node(NodeId::from_bytes([1; 32])), from: Some(LinkId(link)) }
    }

    #[test]
    fn the_first_news_go_out_at_once_and_the_last_after_the_pause() {
        let mut pace = Pace::default();
        assert_eq!(pace.handle_news(Moment(0), news(1)), Some(news(1)));
        assert_eq!(pace.handle_news(Moment(1), news(2)), None);
        assert_eq!(pace.handle_news(Moment(2), news(3)), None);
        assert_eq!(pace.handle_timeout(Moment(4_999_999)), None);
        assert_eq!(pace.handle_timeout(Moment(5_000_000)), Some(news(3)));
        assert_eq!(pace.handle_news(Moment(6_000_000), news(4)), None);
        assert_eq!(pace.handle_timeout(Moment(10_000_000)), Some(news(4)));
        assert_eq!(pace.handle_timeout(Moment(15_000_000)), None);
        assert_eq!(pace.next_timeout(), None);
        assert_eq!(pace.handle_news(Moment(15_000_001), news(5)), Some(news(5)));
    }
}
