//! HTTP/2, without TLS and by prior knowledge.

mod goaway;
mod streams;

use crate::adapter::Protocol;
use crate::case::{Case, Fault, Need};
use crate::probe::http2::Client;
use crate::stage::{SOON, Stage};
use crate::verdict::Level::{Must, Should};

/// The first stream of a client.
const FIRST: u32 = 1;

const HTTP2: Need = Need::Http2;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "H2/1",
        level: Must,
        title: "an idle connection is told to go away",
        setup: "a connection with one answered stream, idle since",
        action: "the stop signal",
        criterion: "GOAWAY with NO_ERROR comes before the end of the connection",
        why: "without it the client cannot tell a stop from a broken network, nor which streams it may send again",
        source: "RFC 9113, section 6.8",
        needs: &[Need::Stop, HTTP2],
        run: goaway::idle,
    },
    Case {
        id: "H2/2",
        level: Should,
        title: "the warning comes before the final GOAWAY",
        setup: "a slow stream in flight",
        action: "the stop signal; the client answers PINGs 100 ms late",
        criterion: "a GOAWAY with id 2^31-1, and at least a round trip later one with the highest stream that was taken",
        why: "a stream that crosses the GOAWAY on its way is refused otherwise",
        source: "RFC 9113, section 6.8; gRPC; Envoy's drain",
        needs: &[Need::Stop, HTTP2, Need::Path("slow")],
        run: goaway::warned,
    },
    Case {
        id: "H2/3",
        level: Must,
        title: "the last stream id never grows",
        setup: "one connection idle, one with a slow stream in flight",
        action: "the stop signal",
        criterion: "from one GOAWAY to the next the last stream id stays or falls",
        why: "a client that has sent a stream again because it was excluded would see it run twice",
        source: "RFC 9113, section 6.8",
        needs: &[Need::Stop, HTTP2, Need::Path("slow")],
        run: goaway::never_grows,
    },
    Case {
        id: "H2/4",
        level: Must,
        title: "streams in flight end, then the connection",
        setup: "five slow streams in flight on one connection",
        action: "the stop signal",
        criterion: "each is answered to END_STREAM, and the connection is closed after them",
        why: "this is what a graceful stop is for",
        source: "Envoy; haproxy#1114",
        needs: &[Need::Stop, HTTP2, Need::Path("slow")],
        run: streams::streams_in_flight,
    },
    Case {
        id: "H2/5",
        level: Must,
        title: "a stream that crosses the first GOAWAY can be sent again or is served",
        setup: "a slow stream in flight",
        action: "the stop signal; when the first GOAWAY has come the client opens another stream",
        criterion: "it is served, or refused in a way that allows to send it again: REFUSED_STREAM, or excluded by id",
        why: "the client could not know; losing the stream would lose the request",
        source: "the family of golang/go#18701",
        needs: &[Need::Stop, HTTP2, Need::Path("slow")],
        run: goaway::crossing,
    },
    Case {
        id: "H2/6",
        level: Must,
        title: "a stream above the final id is not run",
        setup: "a slow stream in flight",
        action: "the stop signal; after the final GOAWAY the client opens a stream above its id",
        criterion: "it is neither answered nor run",
        why: "the client has been promised that it was not, and has sent it again elsewhere",
        source: "RFC 9113, section 6.8",
        needs: &[Need::Stop, HTTP2, Need::Path("slow")],
        run: goaway::excluded,
    },
    Case {
        id: "H2/7",
        level: Must,
        title: "the connection closes when its last stream has ended",
        setup: "a slow stream in flight",
        action: "the stop signal",
        criterion: "the connection ends with a FIN at most 1 s after the last stream, and the process exits",
        why: "a connection that stays holds up the stop until the deadline",
        source: "golang/go#81153; haproxy#1114",
        needs: &[Need::Stop, HTTP2, Need::Path("slow")],
        run: streams::closes_after_last,
    },
    Case {
        id: "H2/8",
        level: Must,
        title: "connections without a preface do not hang until the deadline",
        setup: "connections on which nothing, or half of the preface, was sent",
        action: "the stop signal",
        criterion: "the process exits before the deadline",
        why: "a connection that registers after the sweep is never told",
        source: "golang/go#81153",
        needs: &[Need::Stop, Need::Deadline, HTTP2],
        run: streams::no_preface,
    },
    Case {
        id: "H2/9",
        level: Must,
        title: "an unfinished header block ends by the deadline",
        setup: "HEADERS without END_HEADERS; the CONTINUATION never comes",
        action: "the stop signal",
        criterion: "the process exits at most 1 s after the deadline",
        why: "a parser that waits must not wait for ever",
        source: "RFC 9113, section 6.10",
        needs: &[Need::Stop, Need::Deadline, HTTP2],
        run: streams::unfinished_head,
    },
    Case {
        id: "H2/10",
        level: Should,
        title: "an answer that waits for the client's window is sent",
        setup: "a stream whose body is blocked by a window of zero",
        action: "the stop signal; 300 ms later the client opens the window",
        criterion: "the body comes to END_STREAM",
        why: "what lies in the server's buffers when the handler has returned is work that is not done",
        source: "RFC 9113, section 5.2",
        needs: &[Need::Stop, HTTP2],
        run: streams::blocked,
    },
    Case {
        id: "H2/11",
        level: Should,
        title: "a gRPC stream ends with a status",
        setup: "a server stream of gRPC that has sent a message",
        action: "the stop signal",
        criterion: "trailers come, not a bare RST_STREAM or the end of the connection",
        why: "a client that gets no status cannot tell a stop from a failure",
        source: "grpc-go#2767, grpc-go#6569",
        needs: &[Need::Stop, HTTP2, Need::Speaks(Protocol::Grpc), Need::Path("grpc_stream")],
        run: streams::grpc,
    },
    Case {
        id: "H2/12",
        level: Must,
        title: "the GOAWAY survives data that nobody reads",
        setup: "an upload that does not end: the client goes on sending DATA",
        action: "the stop signal, and the deadline",
        criterion: "the client reads a GOAWAY, and the connection ends with a FIN",
        why: "closing with bytes unread makes the kernel send a reset, which erases the GOAWAY on its way",
        source: "goAwayTimeout of Go's HTTP/2 server",
        needs: &[Need::Stop, Need::Deadline, HTTP2, Need::Path("upload")],
        run: streams::unread_data,
    },
];

/// A connection whose client behaves well.
fn open(stage: &Stage<'_>) -> Result<Client, Fault> {
    Ok(Client::open_with(&stage.fast(), &[], SOON)?)
}

/// A connection with slow streams in flight: nothing of an answer has come after a fifth of their time, which is also told.
fn in_flight(stage: &Stage<'_>, count: u32) -> Result<(Client, std::time::Duration), Fault> {
    let place = stage.path("slow")?;
    let takes = stage.adapter.paths.slow_takes.map_or(SOON, |span| *span);
    let mut client = open(stage)?;
    for number in 0..count {
        client.get(&place, FIRST + 2 * number)?;
    }
    if client.attend(|client| client.is_begun(FIRST), takes / 5)? {
        return Err(Fault(format!("{place} was answered sooner than slow_takes says")));
    }
    match client.wire.end() {
        crate::probe::End::Open => Ok((client, takes)),
        end => Err(Fault(format!("the connection ended before the stop: {end:?}"))),
    }
}

fn record(stage: &Stage<'_>, client: &Client) {
    stage.recorder.wire("HTTP/2", &client.wire);
}
