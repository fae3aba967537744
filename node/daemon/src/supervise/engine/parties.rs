//! A connect of TCP to a party, until there is a verdict.

use std::{net::SocketAddr, os::fd::OwnedFd, sync::Arc, time::Duration};

use nix::errno::Errno;
use phantom_policy::socket::Kind;

use super::{
    super::{
        Deed,
        call::{Answer, Reply},
        connections::disconnect,
        conversation::Accepted,
    },
    Engine,
};

/// Longer than a socket is on its way before its kernel gives up.
const LONGEST_PATIENCE: Duration = Duration::from_secs(3_600);

impl Engine {
    /// Has the node carry a connection to a party, if the program's socket can set out. Whoever waits for it is told when there
    /// is a verdict.
    pub(super) fn open(
        &self,
        program: &Arc<OwnedFd>,
        family: i32,
        circle: u64,
        to: SocketAddr,
        reply: Reply,
    ) {
        if let Some(errno) = self.connections.failure(program) {
            disconnect(program);
            return reply.answer(Err(errno));
        }
        self.connections.forget_ended(program);
        let (waits, said) = match self.run.land.quiet().set_out(program, family, to) {
            Ok(said) => said,
            Err(errno) => return reply.answer(Err(errno)),
        };
        match said {
            Err(Errno::EINPROGRESS) => self.begin(program, family, circle, to, waits, reply),
            // It was interrupted, or another thread waits for it, too.
            Err(Errno::EALREADY) if waits => match self.connections.wait(program, reply) {
                Ok(()) => {
                    self.connections.watch(&self.run.land);
                    self.limit(program);
                }
                Err(reply) => self.open_again(program, family, circle, to, reply),
            },
            Err(errno) => reply.answer(Err(self.connections.why(program, errno))),
            Ok(()) => reply.answer(Ok(Answer::Done)),
        }
    }

    /// What came of a connection a moment ago. If nothing, and somebody else has heard of it, this is another one.
    fn open_again(&self, program: &Arc<OwnedFd>, family: i32, circle: u64, to: SocketAddr, reply: Reply) {
        match self.run.land.quiet().set_out(program, family, to) {
            Ok((waits, Err(Errno::EINPROGRESS))) => self.begin(program, family, circle, to, waits, reply),
            // Somebody else has heard that it stands.
            Ok((_, Ok(()) | Err(Errno::EISCONN))) => reply.answer(Ok(Answer::Done)),
            Ok((_, Err(errno))) => reply.answer(Err(self.connections.why(program, errno))),
            Err(errno) => reply.answer(Err(errno)),
        }
    }

    fn begin(
        &self,
        program: &Arc<OwnedFd>,
        family: i32,
        circle: u64,
        to: SocketAddr,
        waits: bool,
        reply: Reply,
    ) {
        let (waiting, told) = if waits { (Some(reply), None) } else { (None, Some(reply)) };
        let ends = self.run.land.quiet().ends(program, family, to);
        // Who has chosen a place of ours would meet itself there, or others.
        let ends = ends
            .and_then(|ends| if self.run.land.is_ours(ends.0) { Err(Errno::EADDRINUSE) } else { Ok(ends) });
        let begun = match ends.and_then(|ends| self.peers.remember(program, ends, to).map(|()| ends)) {
            Ok((own, _)) => {
                let begun = self.connections.begin(program.clone(), family, own, waiting);
                begun.map(|attempt| (attempt, own))
            }
            Err(errno) => Err((errno, waiting)),
        };
        let (attempt, own) = match begun {
            Ok(begun) => begun,
            Err((errno, waiting)) => {
                self.run.account.note(Deed::Connects(Kind::Stream, to), Err(errno));
                disconnect(program);
                return waiting.into_iter().chain(told).for_each(|reply| reply.answer(Err(errno)));
            }
        };
        let (connections, land) = (self.connections.clone(), self.run.land.clone());
        let account = self.run.account.clone();
        let at_verdict = Box::new(move |verdict: Result<Accepted, Errno>| {
            account
                .note(Deed::Connects(Kind::Stream, to), verdict.as_ref().map(drop).map_err(|errno| *errno));
            match verdict {
                Ok(accepted) => {
                    accepted.joined(connections.join(attempt, &land));
                    land.prepare_to_join(own);
                }
                Err(errno) => connections.refuse(attempt, errno, &land),
            }
        });
        if let Err(errno) = self.run.conversation.open(circle, to, at_verdict) {
            self.run.account.note(Deed::Connects(Kind::Stream, to), Err(errno));
            self.connections.refuse(attempt, errno, &self.run.land);
        }
        match told {
            Some(reply) => reply.answer(Err(Errno::EINPROGRESS)),
            None => {
                self.connections.watch(&self.run.land);
                self.limit(program);
            }
        }
    }

    /// A socket may have a time-out of its own for a connect that waits (`SO_SNDTIMEO`).
    pub(super) fn limit(&self, program: &OwnedFd) {
        let patience = socket2::SockRef::from(program).write_timeout().ok().flatten();
        // The kernel itself is not so patient as some would be.
        let patience = patience.filter(|patience| *patience < LONGEST_PATIENCE);
        if let Some(patience) = patience
            && let Some(attempt) = self.connections.attempt(program)
        {
            let (connections, land) = (self.connections.clone(), self.run.land.clone());
            self.deadlines.after(patience, move || connections.run_out(attempt, &land));
        }
    }
}
