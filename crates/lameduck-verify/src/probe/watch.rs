//! Reads many wires at once, each byte and each end as it comes.

use super::{End, READ_BYTES, Wire};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use std::io;
use std::time::{Duration, Instant};

/// So many events are taken from the kernel at once.
const EVENTS: usize = 1024;

/// When a wire needs no more watching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Each request on it was answered, or it ended.
    Answered,
    /// It ended.
    Closed,
}

impl Until {
    fn is_over(self, wire: &Wire) -> bool {
        wire.end() != End::Open || (self == Until::Answered && wire.is_answered())
    }
}

/// Reads the wires until each is answered or closed, or `limit` has passed; says whether all are.
///
/// # Errors
/// When this process has too few descriptors left.
pub fn watch(wires: &mut [Wire], until: Until, limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    let poller = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut open = 0;
    for (place, wire) in wires.iter().enumerate().filter(|(_, wire)| !until.is_over(wire)) {
        let data = epoll::EventData::new_u64(place as u64);
        epoll::add(&poller, wire, data, epoll::EventFlags::IN)?;
        open += 1;
    }
    let mut events = Vec::with_capacity(EVENTS);
    let mut buffer = vec![0; READ_BYTES];
    while open > 0 {
        let left = deadline.saturating_duration_since(Instant::now());
        events.clear();
        match epoll::wait(
            &poller,
            spare_capacity(&mut events),
            Timespec::try_from(left).ok().as_ref(),
        ) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let data = event.data;
            // The number is the place that was registered above.
            let wire = &mut wires[data.u64() as usize];
            wire.read_once(&mut buffer);
            if until.is_over(wire) {
                epoll::delete(&poller, &*wire)?;
                open -= 1;
            }
        }
        if Instant::now() >= deadline {
            return Ok(open == 0);
        }
    }
    Ok(true)
}
