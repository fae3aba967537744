//! An identity that is online as long as somebody holds it, and a little longer: what was said last may be on its way.

use std::{any::Any, sync::Arc};

use futures_util::future::BoxFuture;
use phantom_protocol::{identity::ApSecret, node::ServiceId};
use tokio::runtime::Handle;

use super::{Command, Daemon};
use crate::session::{CongestionConfig, Service, Targets};

/// What is waited for before an identity that nobody holds goes offline.
pub(super) type LastWords = Box<dyn FnOnce(Arc<Service>) -> BoxFuture<'static, ()> + Send + Sync>;

/// Dropping it takes the identity offline.
pub(super) struct Online {
    daemon: Daemon,
    pub(super) id: ServiceId,
    pub(super) service: Arc<Service>,
    last_words: Option<LastWords>,
    /// Its place among others, which is free when it is offline.
    place: Option<Box<dyn Any + Send + Sync>>,
}

impl Daemon {
    /// Brings an identity online; does not wait until others can find it.
    pub(super) async fn bring_online_while_held(
        &self,
        secret: Arc<ApSecret>,
        targets: Arc<dyn Targets>,
        place: impl Any + Send + Sync,
        last_words: LastWords,
    ) -> anyhow::Result<Online> {
        let service = Arc::new(Service::new(Arc::clone(&secret), targets, &CongestionConfig::default())?);
        let (daemon, answering, hops) = (self.clone(), Arc::clone(&service), self.config().hops);
        // To its end, also when nobody waits for it any more: what is online goes offline by itself, whatever happens.
        let hosting = tokio::spawn(async move {
            let id = daemon.ask(|answer| Command::Host { secret, hops, service: answering, answer }).await;
            let (last_words, place) = (Some(last_words), Some(Box::new(place) as _));
            id.map(|id| Online { daemon, id, service, last_words, place })
        });
        hosting.await?
    }
}

impl Drop for Online {
    fn drop(&mut self) {
        let (daemon, id, place) = (self.daemon.clone(), self.id, self.place.take());
        let last_words = self.last_words.take().map(|last_words| last_words(Arc::clone(&self.service)));
        let end = async move {
            if let Some(last_words) = last_words {
                last_words.await;
            }
            let _stopped_already = daemon.ask(|answer| Command::Unhost { id, answer }).await;
            drop(place);
        };
        // Without a runtime the node has ended.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(end);
        }
    }
}
