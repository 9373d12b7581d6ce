//! Where a listening socket came from, and whether somebody else has it too.

use std::time::Duration;

use tokio::sync::watch;

/// How long a stop soon after an upgrade waits for the predecessor to let go of the socket.
pub const LET_GO: Duration = Duration::from_secs(1);

/// Where the socket came from.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// This process bound it, and nobody else has it.
    Bound,
    /// Somebody handed it to us and may still have it.
    Shared,
    /// A predecessor handed it to us.
    TakenOver(watch::Receiver<Predecessor>, Others),
}

/// Whoever has the socket besides, and is no generation of this service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Others {
    /// Nobody.
    Leave,
    /// A service manager, say: it gives the socket to the next start.
    Hold,
}

/// What a predecessor does with the sockets it handed to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Predecessor {
    /// It keeps copies for a way back.
    Keeps,
    /// It let go of them for good, or is gone.
    LetGo,
    /// It accepts from them again.
    Resumed,
}

impl Origin {
    /// Whether no other process can accept from the socket. A predecessor is waited for, no longer than [`LET_GO`].
    pub(super) async fn is_sole(&mut self) -> bool {
        match self {
            Origin::Bound => true,
            Origin::Shared | Origin::TakenOver(_, Others::Hold) => false,
            Origin::TakenOver(predecessor, Others::Leave) => {
                let decided = predecessor.wait_for(|does| *does != Predecessor::Keeps);
                match tokio::time::timeout(LET_GO, decided).await {
                    Ok(Ok(does)) => *does == Predecessor::LetGo,
                    // Whoever could tell is gone, and so is the predecessor.
                    Ok(Err(_)) => true,
                    Err(_) => false,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the socket is ours alone, and how long that took to find out.
    async fn check(does: Predecessor) -> (bool, Duration) {
        let (_tells, predecessor) = watch::channel(does);
        let asked = tokio::time::Instant::now();
        let is_sole = Origin::TakenOver(predecessor, Others::Leave).is_sole().await;
        (is_sole, asked.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_predecessor_that_has_not_decided_is_waited_for() {
        assert_eq!(check(Predecessor::LetGo).await, (true, Duration::ZERO));
        assert_eq!(check(Predecessor::Resumed).await, (false, Duration::ZERO));
        let (is_sole, took) = check(Predecessor::Keeps).await;
        assert!(!is_sole && took >= LET_GO, "{took:?}");
    }

    /// The gate would stay shut for whoever gets it next.
    #[tokio::test]
    async fn what_a_manager_holds_is_never_ours_alone() {
        let (_tells, predecessor) = watch::channel(Predecessor::LetGo);
        assert!(!Origin::TakenOver(predecessor, Others::Hold).is_sole().await);
        assert!(!Origin::Shared.is_sole().await);
    }
}
