//! HTTP/1.1 by hand, as much as the suite speaks of it.

use super::connection::{BEGUN_LIMIT, Io, READ_BYTES, drain_for};
use super::routes::{self, Piece, Reply};
use super::server::{Phase, Server};
use super::{Fault, websocket};
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long an idle connection stays open in the drain: a request may be on its way.
const IDLE_LIMIT: Duration = Duration::from_millis(300);

/// How a connection is to end.
pub(super) enum End {
    InOrder,
    Reset,
    Unread,
}

/// One request.
pub(super) struct Request {
    pub(super) target: String,
    fields: Vec<(String, String)>,
    is_version_1_0: bool,
}

impl Request {
    fn parse(head: &[u8]) -> Option<Request> {
        let text = std::str::from_utf8(head).ok()?;
        let mut lines = text.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (_method, target, version) = (words.next()?, words.next()?, words.next()?);
        let fields = lines.filter_map(|line| line.split_once(':'));
        let fields =
            fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
        Some(Request {
            target: target.to_owned(),
            fields: fields.collect(),
            is_version_1_0: version == "HTTP/1.0",
        })
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    fn length(&self) -> usize {
        self.field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)
    }

    fn wants_close(&self) -> bool {
        let says = self.field("connection").map(str::to_ascii_lowercase);
        match self.is_version_1_0 {
            true => says.as_deref() != Some("keep-alive"),
            false => says.as_deref() == Some("close"),
        }
    }
}

pub(super) async fn serve(server: &Arc<Server>, mut io: Io, mut buffer: Vec<u8>) {
    let ended = tokio::select! {
        ended = requests(server, &mut io, &mut buffer) => ended,
        () = server.reached(Phase::Forced) => Ok(End::InOrder),
    };
    match ended {
        Ok(End::InOrder) => io.close(server).await,
        Ok(End::Reset) => io.reset(),
        Ok(End::Unread) => io.drop_unread(),
        Err(error) => {
            if server.has(Fault::DieOfBrokenPipe) && error.kind() == io::ErrorKind::BrokenPipe {
                std::process::abort();
            }
        }
    }
}

async fn requests(server: &Arc<Server>, io: &mut Io, buffer: &mut Vec<u8>) -> io::Result<End> {
    let mut is_reused = false;
    loop {
        let request = match next(server, io, buffer, is_reused).await? {
            Next::Request(request) => request,
            Next::End(end) => return Ok(end),
        };
        if !routes::is_known(request.path()) && request.length() > 0 {
            write_early(io).await?;
            let close = if server.has(Fault::CloseUnread) { End::Unread } else { End::InOrder };
            return Ok(close);
        }
        let Some(body) = body(server, io, buffer, &request).await? else { return Ok(End::Reset) };
        if request.path() == "/match" && request.field("upgrade").is_some() {
            websocket::serve(server, io, &request).await?;
            return Ok(End::InOrder);
        }
        if server.has(Fault::RunUnanswered) && server.is_draining() && is_reused {
            routes::count(server);
            return Ok(End::Reset);
        }
        let answering = respond(server, io, buffer, &request, body);
        let answered = tokio::select! {
            answered = answering => answered?,
            () = server.reached(Phase::Forced), if server.has(Fault::HalfHead) => {
                io.stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-le").await?;
                return Ok(End::InOrder);
            }
        };
        match answered {
            Answered::Keep => is_reused = true,
            Answered::Last(end) => return Ok(end),
        }
    }
}

enum Next {
    Request(Request),
    End(End),
}

/// The next head, unless the connection ends before it.
async fn next(
    server: &Server,
    io: &mut Io,
    buffer: &mut Vec<u8>,
    is_reused: bool,
) -> io::Result<Next> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = buffer.drain(..end + 4).collect();
            let request = Request::parse(&head[..end]);
            return Ok(request.map_or(Next::End(End::InOrder), Next::Request));
        }
        buffer.reserve(READ_BYTES);
        let is_idle = buffer.is_empty() && is_reused;
        let limit = if is_idle { IDLE_LIMIT } else { BEGUN_LIMIT };
        let holds = is_idle && (server.has(Fault::IdleHolds) || server.has(Fault::Http10Open));
        tokio::select! {
            read = io.stream.read_buf(buffer) => if read? == 0 { return Ok(Next::End(End::InOrder)) },
            () = drain_for(server, limit), if !holds => return Ok(Next::End(End::InOrder)),
            () = server.drained_by(Fault::ResetIdle), if is_idle => return Ok(Next::End(End::Reset)),
            () = server.drained_by(Fault::CutHalfHead), if !is_idle => return Ok(Next::End(End::Reset)),
        }
    }
}

/// The whole body, unless this is the server that cuts it.
async fn body(
    server: &Server,
    io: &mut Io,
    buffer: &mut Vec<u8>,
    request: &Request,
) -> io::Result<Option<Bytes>> {
    let _work = server.work();
    let (length, expects) = (request.length(), request.field("expect").is_some());
    if expects && buffer.is_empty() {
        io.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    while buffer.len() < length {
        tokio::select! {
            read = io.stream.read_buf(buffer) => if read? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            },
            () = server.drained_by(Fault::CutUpload) => return Ok(None),
            () = server.drained_by(Fault::NoContinue), if expects => std::future::pending().await,
        }
    }
    Ok(Some(buffer.drain(..length).collect::<Vec<u8>>().into()))
}

enum Answered {
    Keep,
    Last(End),
}

async fn respond(
    server: &Arc<Server>,
    io: &mut Io,
    buffer: &[u8],
    request: &Request,
    body: Bytes,
) -> io::Result<Answered> {
    let Some(reply) = routes::answer(server, &request.target, body).await else {
        return Ok(Answered::Last(End::InOrder));
    };
    let more = buffer.windows(4).any(|window| window == b"\r\n\r\n");
    let drops = server.is_draining()
        && more
        && (server.has(Fault::RunPipelined) || server.has(Fault::ResetPipelined));
    let is_last = request.wants_close() || drops || (server.is_draining() && !more);
    let announces = is_last && !(server.has(Fault::NoConnectionClose) && server.is_draining());
    let is_whole = write(io, reply, announces, request.is_version_1_0).await?;
    if !is_whole {
        return Ok(Answered::Last(End::InOrder));
    }
    if drops && server.has(Fault::RunPipelined) {
        let heads = buffer.windows(4).filter(|window| *window == b"\r\n\r\n").count();
        (0..heads).for_each(|_| drop(routes::count(server)));
    }
    let keeps_open = request.is_version_1_0 && server.has(Fault::Http10Open);
    Ok(match is_last && !keeps_open {
        true if drops && server.has(Fault::ResetPipelined) => Answered::Last(End::Reset),
        true => Answered::Last(End::InOrder),
        false => Answered::Keep,
    })
}

async fn write_early(io: &mut Io) -> io::Result<()> {
    let body = "no such path";
    let head = format!(
        "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    io.stream.write_all(head.as_bytes()).await
}

/// Says whether the answer was written to its end.
async fn write(
    io: &mut Io,
    reply: Reply,
    announces: bool,
    is_version_1_0: bool,
) -> io::Result<bool> {
    let close = if announces { "connection: close\r\n" } else { "" };
    match reply {
        Reply::Whole { status, kind, body } => {
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n{close}\r\n"
            );
            io.stream.write_all(&[head.as_bytes(), &body].concat()).await?;
            Ok(true)
        }
        Reply::Stream { kind, mut pieces } => {
            let framing = if is_version_1_0 { "" } else { "transfer-encoding: chunked\r\n" };
            let head = format!("HTTP/1.1 200 X\r\ncontent-type: {kind}\r\n{framing}{close}\r\n");
            io.stream.write_all(head.as_bytes()).await?;
            while let Some(piece) = pieces.recv().await {
                let Piece::Data(data) = piece else { return Ok(false) };
                if is_version_1_0 {
                    io.stream.write_all(&data).await?;
                    continue;
                }
                let size = format!("{:x}\r\n", data.len());
                io.stream.write_all(&[size.as_bytes(), &data, b"\r\n"].concat()).await?;
            }
            if !is_version_1_0 {
                io.stream.write_all(b"0\r\n\r\n").await?;
            }
            Ok(!is_version_1_0)
        }
    }
}
