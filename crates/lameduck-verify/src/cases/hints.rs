//! For each case, what in a server usually causes a miss and what mends it: the line under each FAIL and WARN.
//!
//! Apart from the cases because it is written for another reader: a case says what was looked at, a hint where to look.

/// The hint of the case with this id.
pub(super) fn of(id: &str) -> Option<&'static str> {
    HINTS.iter().find(|(of, _)| *of == id).map(|(_, hint)| *hint)
}

const HINTS: &[(&str, &str)] = &[
    (
        "SIG/1",
        "it sleeps or polls on its way out, or its signal handler leaves the exit code of a death by signal; end by an event, and return 0 yourself",
    ),
    (
        "SIG/2",
        "the drain is found empty by a poll, or the exit waits for idle connections; wait for the last request's end as an event",
    ),
    (
        "SIG/3",
        "nothing ends the drain; start a timer at the stop that closes what is left, on a thread that no handler can block",
    ),
    (
        "SIG/4",
        "the timed-out drain leaves by the same way as a finished one; give it an exit code of its own and log what was cut",
    ),
    (
        "SIG/5",
        "the second signal is swallowed by a handler that has already run; on it, close everything and leave at once",
    ),
    (
        "SIG/6",
        "a handler is not prepared for being run again; let the first signal begin the stop and only count the others",
    ),
    (
        "SIG/7",
        "process 1 has no default action for signals; install a handler for the stop signal, or run under an init (`tini`, `docker run --init`)",
    ),
    (
        "SIG/8",
        "process 1 inherits orphans and has to wait for them; call waitpid on SIGCHLD, or run under an init",
    ),
    (
        "SIG/9",
        "the shell gets the signal and does not pass it on, or the handler comes too late; write `exec`, or the array form of the command",
    ),
    (
        "SIG/10",
        "a write to a client that is gone raises SIGPIPE or an error that ends the drain; ignore SIGPIPE and treat it as that connection's end",
    ),
    ("SIG/11", "HUP has its default action, which is death; ignore it, or let it reload"),
    (
        "SIG/12",
        "the handler is installed after the slow part of the start; install it first and ask for the stop before you begin to serve",
    ),
    (
        "SIG/13",
        "a blocking write to the log holds the exit; write logs without blocking, ignore EPIPE, and bound the last flush",
    ),
    (
        "ACC/1",
        "the listener is closed with connections in its queue, which the kernel then resets; accept until the queue is empty, then close",
    ),
    (
        "ACC/2",
        "the listener is closed with connections in its queue, which the kernel then resets; accept until the queue is empty, then close each in order",
    ),
    (
        "ACC/3",
        "a connection that has not sent a whole head counts as idle; wait for its rest for a bounded time and answer with `Connection: close`",
    ),
    (
        "ACC/4",
        "a connection that has sent nothing counts as work; close those after a short time in a drain",
    ),
    (
        "ACC/5",
        "the listening socket stays open and unserved during the drain; close it once its queue is empty",
    ),
    (
        "ACC/6",
        "the port is bound without SO_REUSEADDR, or a child process still holds the listener",
    ),
    (
        "ACC/7",
        "connections made between the last accept and the close are reset; keep new ones out first, empty the queue, then close",
    ),
    (
        "ACC/8",
        "only the first of several listeners is closed or waited for; keep all in one list and drain each",
    ),
    (
        "ACC/9",
        "the socket's path is left, or removed although another has bound it since; compare the inode before you unlink",
    ),
    (
        "H1/1",
        "the exit does not wait for handlers, or closes their connections; count requests and wait for the count, up to the deadline",
    ),
    (
        "H1/2",
        "answers given in a drain are as before; once the stop has begun, send `Connection: close` with each",
    ),
    (
        "H1/3",
        "idle connections are left to the exit, or closed with bytes unread, which resets them; half-close, read to the end, close",
    ),
    (
        "H1/4",
        "idle connections are closed at once, while a request may be on its way; go on reading for a short linger and answer what comes",
    ),
    (
        "H1/5",
        "the drain cuts bodies that are still being read; an upload under way is a request like any other",
    ),
    (
        "H1/6",
        "the connection is closed while the client still sends, and unread bytes make the kernel reset it; half-close and read on for a bounded time",
    ),
    (
        "H1/7",
        "the requests behind the first are dropped with the buffer; answer them, or close without running them",
    ),
    ("H1/8", "the stream is ended as if it were whole; leave the last chunk out when it is cut"),
    (
        "H1/9",
        "a request that waits for `100 Continue` counts as idle; answer it, with 100 and the result or with a final status",
    ),
    (
        "H1/10",
        "what the handler returned is thought to be sent; a request ends with the last byte written, not with its handler",
    ),
    (
        "H1/11",
        "the deadline cuts in the middle of a write; write a head in one piece, and cut between answers",
    ),
    ("H1/12", "HTTP/1.0 is kept alive or refused; answer it and close"),
    ("H2/1", "the connection is closed without GOAWAY; send one with NO_ERROR first"),
    (
        "H2/2",
        "only the final GOAWAY is sent; send one with id 2^31-1 first, and the final one a round trip later",
    ),
    ("H2/3", "a later GOAWAY names a stream that an earlier one excluded; let the id only fall"),
    (
        "H2/4",
        "the connection is closed with streams open, or kept after the last; close it when its last stream has ended",
    ),
    (
        "H2/5",
        "a stream that crosses the GOAWAY is reset with a code that does not allow another try; use REFUSED_STREAM or exclude it by id",
    ),
    ("H2/6", "streams above the announced id are still taken; ignore or refuse them"),
    (
        "H2/7",
        "the connection waits for its client to close; after GOAWAY and the last stream, close it yourself",
    ),
    (
        "H2/8",
        "a connection that has not sent its preface is not known to the drain; register it when it is accepted, and bound the preface",
    ),
    (
        "H2/9",
        "the parser waits for the rest of a header block without bound; let the deadline close the connection",
    ),
    (
        "H2/10",
        "a stream that waits for the window counts as done; wait for END_STREAM, up to the deadline",
    ),
    (
        "H2/11",
        "the stream is reset or its connection closed; end it with trailers, `grpc-status: 14`",
    ),
    (
        "H2/12",
        "the connection is closed with data unread, so that the kernel's reset erases the GOAWAY; half-close and read to the end",
    ),
    (
        "WS/1",
        "an upgraded connection is dropped with the process; send a close frame with 1001 (going away) and wait for the reply",
    ),
    (
        "WS/2",
        "the exit waits for the client's reply without bound; close after a few seconds without one",
    ),
    (
        "WS/3",
        "every WebSocket is closed in one loop; spread the closes over a second or more, or all clients come back at once",
    ),
    (
        "WS/4",
        "the old version closes its WebSockets when the new one takes over; let it keep them until they end",
    ),
    ("SSE/1", "the stream is cut inside an event; stop between two events"),
    (
        "TLS/1",
        "a handshake has no bound, or is not known to the drain; register the connection when it is accepted, and bound the handshake",
    ),
    (
        "TLS/2",
        "the new version makes ticket keys of its own; hand the old ones over, or keep them in a shared place",
    ),
    (
        "TLS/3",
        "the socket is closed without close_notify; shut the TLS session down before the socket",
    ),
    (
        "RDY/1",
        "the listener is closed when the stop begins; turn readiness red first and go on accepting for longer than the balancer's check takes",
    ),
    (
        "RDY/2",
        "the listener is closed before the delay is over; start the drain when the lame-duck time has passed",
    ),
    (
        "RDY/3",
        "liveness follows readiness, or its listener is closed first; keep it answering until the exit, or the platform kills the drain",
    ),
    (
        "RDY/4",
        "the new version is asked before it serves, or the old one turns red too soon; hand readiness over with the listener",
    ),
    ("RDY/5", "readiness is green before the service's own listener answers; turn it green last"),
    (
        "RDY/6",
        "the listener is closed before a check can see that readiness is red; keep accepting for two checks",
    ),
    (
        "DRN/1",
        "connections of the burst are in no count; register each when it is accepted, and name what the deadline cuts",
    ),
    ("DRN/2", "the drain is silent; tell how many requests are left, in the log or at an address"),
    (
        "DRN/3",
        "a child that a handler started is nobody's; keep its process group and end it before you leave",
    ),
    ("DRN/4", "the process leaves with its log unwritten; flush it last, with a bound"),
    ("DRN/5", "closing functions run without bound; give each its budget within the deadline"),
    (
        "DRN/6",
        "a handler that waits is not told of the stop; wake it, and let it answer with nothing new",
    ),
    (
        "UPG/1",
        "the listening socket is closed or bound anew; hand the same socket to the new version, and accept until it does",
    ),
    (
        "UPG/2",
        "idle connections are closed at the hand-over, while a request may be on its way; answer for a short linger, or hand them over",
    ),
    (
        "UPG/3",
        "the old version gives up its listener before the new one is ready; let it go on until the new one says that it accepts",
    ),
    (
        "UPG/4",
        "the wait for the new version has no bound; give it one, kill it after, and go on serving",
    ),
    (
        "UPG/5",
        "the failure to start it is lost; answer the command with the reason, and go on serving",
    ),
    (
        "UPG/6",
        "the old version has let go of the listener when the new one dies; keep a copy until the new one has proved itself",
    ),
    (
        "UPG/7",
        "the new version needs the old one to the end; from the hand-over on, the new one has to serve alone",
    ),
    (
        "UPG/8",
        "two hand-overs run into one another; allow one at a time and refuse the other with a reason",
    ),
    (
        "UPG/9",
        "old generations hold a lock, or their work is cut; let each drain alone, beside any number of newer ones",
    ),
    (
        "UPG/10",
        "nothing bounds the old generations; give each a deadline, or refuse the next upgrade with a reason",
    ),
    (
        "UPG/11",
        "the old version still accepts from the shared queue; stop its accepting before the upgrade is called done",
    ),
    (
        "UPG/12",
        "there is no way back, or it drops requests; keep the old version's listener until the upgrade is final",
    ),
    (
        "UPG/13",
        "the program is started by its resolved path; start it by the path that it was started by",
    ),
    (
        "UPG/14",
        "the program's file is kept open for writing or is found by /proc/self/exe; start it by its path, and pass ETXTBSY on",
    ),
    (
        "UPG/15",
        "descriptors, processes or memory stay with each upgrade; close what was handed over, and wait for each child",
    ),
    (
        "UPG/16",
        "descriptors without close-on-exec and the old environment are inherited; open with O_CLOEXEC and name what you pass on",
    ),
    (
        "UPG/17",
        "the new version binds a socket of its own, and what waits in the old one's queue is lost; pass the descriptor on",
    ),
    (
        "UPG/18",
        "one version changes the blocking mode of a socket that both share; leave the mode as it was received",
    ),
    (
        "UPG/19",
        "the service manager is not told; send RELOADING=1 with MONOTONIC_USEC, READY=1 and MAINPID",
    ),
    (
        "UPG/20",
        "after RELOADING=1 a failed upgrade is not ended; send READY=1 in any case, and fail the command",
    ),
    (
        "UPG/21",
        "the file is emptied and then written; write another and rename it, once the new version serves",
    ),
    (
        "UPG/22",
        "the addresses are taken over as they were; bind the added ones before the hand-over and close the removed ones after",
    ),
    (
        "UPG/23",
        "the old version unlinks the path that the new one serves; only the last owner may remove it",
    ),
    (
        "UPG/24",
        "the old version keeps its caches until it has drained; let go of what a drain does not need",
    ),
    (
        "UPG/25",
        "the queue belongs to a socket that is closed; hand the listening socket over with its queue",
    ),
    (
        "UPG/26",
        "the server depends on its supervisor's life, or the new one binds a second socket; let a new supervisor take the running one on",
    ),
    (
        "UPG/27",
        "the supervisor's own upgrade restarts its server; let it execute itself anew with its descriptors and children",
    ),
    (
        "UPG/28",
        "the process that is just being started is not told of the stop; end it too, and wait for it",
    ),
    (
        "UPG/29",
        "the versions of the hand-over are not compared; greet with a version, and refuse what is not understood",
    ),
    (
        "UPG/30",
        "each signal starts an upgrade of its own; let one run at a time, and refuse or merge the others",
    ),
    (
        "UPG/31",
        "anyone may open the control socket; put it in a directory of mode 0700, check the peer's user, use no abstract name",
    ),
    (
        "UPG/32",
        "a request is run by both versions, or acknowledged before it is stored; commit once, under the request's own id, then answer",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_one_hint_and_every_hint_a_case() {
        for case in crate::cases::all() {
            let hints = HINTS.iter().filter(|(of, _)| *of == case.id).count();
            assert_eq!(hints, 1, "{}", case.id);
        }
        for (of, hint) in HINTS {
            assert!(crate::cases::find(of).is_some(), "no case is called {of}");
            assert!(hint.len() < 200 && !hint.ends_with('.'), "{of}: one short line: {hint}");
        }
    }
}
