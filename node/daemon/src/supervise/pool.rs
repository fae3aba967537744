//! Threads for calls that wait for somebody on this machine. They stay for a while, for such calls come in rows.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use super::lock;

/// Calls that wait at once.
const MOST: usize = 512;
/// A thread that nobody needs for so long ends.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

#[derive(Debug, Default)]
pub(super) struct Pool {
    work: Mutex<Work>,
    more: Condvar,
}

#[derive(Default)]
struct Work {
    waiting: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl Pool {
    /// Does something in another thread, or drops it if there are too many.
    pub(super) fn run(self: &Arc<Pool>, job: impl FnOnce() + Send + 'static) {
        let mut work = lock(&self.work);
        if work.idle > work.waiting.len() {
            work.waiting.push_back(Box::new(job));
            self.more.notify_one();
        } else if work.threads < MOST {
            let pool = self.clone();
            let started = thread::Builder::new().name("waits".to_owned()).spawn(move || {
                job();
                pool.serve();
            });
            work.threads += usize::from(started.is_ok());
        }
    }

    fn serve(&self) {
        let mut work = lock(&self.work);
        loop {
            if let Some(job) = work.waiting.pop_front() {
                drop(work);
                job();
                work = lock(&self.work);
                continue;
            }
            work.idle += 1;
            let waited = self.more.wait_timeout_while(work, IDLE, |work| work.waiting.is_empty());
            let (woken, timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
            work = woken;
            work.idle -= 1;
            if timed_out.timed_out() {
                work.threads -= 1;
                return;
            }
        }
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} threads", self.threads)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        sync::mpsc::{channel, sync_channel},
    };

    use super::*;

    #[test]
    fn nobody_waits_for_another_and_threads_are_used_again() {
        let pool = Arc::<Pool>::default();
        let (told, done) = channel();
        let (go_on, waits) = sync_channel::<()>(0);
        pool.run(move || _ = waits.recv());
        let mut threads = HashSet::new();
        for _ in 0..50 {
            let told = told.clone();
            pool.run(move || told.send(thread::current().id()).unwrap());
            threads.insert(done.recv_timeout(Duration::from_secs(5)).unwrap());
            // It is idle when it waits.
            while lock(&pool.work).idle == 0 {
                thread::yield_now();
            }
        }
        assert_eq!(threads.len(), 1);
        go_on.send(()).unwrap();
    }

    #[test]
    fn what_there_is_no_room_for_is_dropped() {
        let pool = Arc::<Pool>::default();
        let (go_on, waits) = sync_channel::<()>(0);
        let waits = Arc::new(Mutex::new(waits));
        for _ in 0..MOST {
            let waits = waits.clone();
            pool.run(move || _ = lock(&waits).recv());
        }
        let (told, dropped) = channel::<()>();
        pool.run(move || drop(told));
        assert!(dropped.recv_timeout(Duration::from_secs(5)).is_err());
        drop(go_on);
    }
}
