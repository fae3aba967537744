//! Counts what programs wish at the proxy port, and what became of it.

use std::{
    future::Future,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use phantom_proxy::{Datagrams, Dial, DialError, Isolation, Listening, Request, ServiceError};

/// Each kind of answer, and how often it was given.
#[derive(Debug)]
pub struct Wishes {
    granted: AtomicU64,
    refused: [(&'static str, AtomicU64); REASONS.len()],
}

const REASONS: [&str; 9] = [
    "failed",
    "not_allowed",
    "no_way",
    "unreachable",
    "refused",
    "timed_out",
    "not_supported",
    "unknown_name",
    "bad_name",
];

impl Default for Wishes {
    fn default() -> Wishes {
        Wishes { granted: AtomicU64::new(0), refused: REASONS.map(|reason| (reason, AtomicU64::new(0))) }
    }
}

impl Wishes {
    /// Those that were fulfilled.
    pub fn granted(&self) -> u64 {
        self.granted.load(Ordering::Relaxed)
    }

    /// Those that were not, by reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.refused.iter().map(|(reason, count)| (*reason, count.load(Ordering::Relaxed)))
    }

    fn count<T>(&self, result: &Result<T, DialError>) {
        let count = match result {
            Ok(_) => &self.granted,
            Err(error) => {
                let reason = reason(*error);
                match self.refused.iter().find(|(known, _)| *known == reason) {
                    Some((_, count)) => count,
                    None => return,
                }
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn reason(error: DialError) -> &'static str {
    match error {
        DialError::Failed => "failed",
        DialError::NotAllowed => "not_allowed",
        DialError::NetworkUnreachable => "no_way",
        DialError::HostUnreachable => "unreachable",
        DialError::Refused => "refused",
        DialError::TimedOut => "timed_out",
        DialError::CommandNotSupported | DialError::AddressNotSupported => "not_supported",
        DialError::Service(error) => match error {
            ServiceError::NotFound | ServiceError::Invalid => "unknown_name",
            ServiceError::BadName => "bad_name",
            ServiceError::AuthorizationMissing | ServiceError::AuthorizationWrong => "not_allowed",
            ServiceError::IntroductionTimedOut => "timed_out",
            ServiceError::IntroductionFailed | ServiceError::RendezvousFailed => "unreachable",
        },
    }
}

/// A dialler whose answers are counted.
#[derive(Debug)]
pub struct Counted<D> {
    dialler: D,
    wishes: Arc<Wishes>,
}

impl<D> Counted<D> {
    /// Counts the answers of this dialler there.
    pub fn new(dialler: D, wishes: Arc<Wishes>) -> Counted<D> {
        Counted { dialler, wishes }
    }

    async fn counting<T>(&self, answer: impl Future<Output = Result<T, DialError>>) -> Result<T, DialError> {
        let result = answer.await;
        self.wishes.count(&result);
        result
    }
}

impl<D: Dial> Dial for Counted<D> {
    type Connection = D::Connection;

    async fn dial(&self, request: Request) -> Result<D::Connection, DialError> {
        self.counting(self.dialler.dial(request)).await
    }

    async fn resolve(&self, request: Request) -> Result<IpAddr, DialError> {
        self.counting(self.dialler.resolve(request)).await
    }

    async fn reverse(&self, request: Request) -> Result<String, DialError> {
        self.counting(self.dialler.reverse(request)).await
    }

    async fn associate(&self, group: Isolation) -> Result<Datagrams, DialError> {
        self.counting(self.dialler.associate(group)).await
    }

    async fn listen(&self, request: Request) -> Result<Listening<D::Connection>, DialError> {
        self.counting(self.dialler.listen(request)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_counted_under_its_reason() {
        let wishes = Wishes::default();
        let refusals = [
            DialError::Failed,
            DialError::NotAllowed,
            DialError::NetworkUnreachable,
            DialError::HostUnreachable,
            DialError::Refused,
            DialError::TimedOut,
            DialError::CommandNotSupported,
            ServiceError::NotFound.into(),
            ServiceError::BadName.into(),
        ];
        for error in refusals {
            wishes.count::<()>(&Err(error));
        }
        wishes.count(&Ok(()));
        assert_eq!(wishes.granted(), 1);
        assert!(wishes.refused().all(|(_, count)| count == 1), "{wishes:?}");
    }
}
