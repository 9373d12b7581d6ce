//! Becomes another program, which inherits several sockets of one address: what a service manager does that listens with
//! `SO_REUSEPORT`, so that the kernel spreads connections over them. The tests of the upgrade use it.
//!
//! `reuseport_group COUNT ADDRESS PROGRAM ARGUMENT…`

use std::net::SocketAddr;
use std::os::fd::IntoRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use socket2::{Domain, SockAddr, Socket, Type};

/// The first descriptor that a service is passed.
const FIRST: i32 = 3;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().expect("usage: COUNT ADDRESS PROGRAM ARGUMENT…");
    let count: i32 = next().parse().expect("a number");
    let address: SocketAddr = next().parse().expect("an address");
    let program = next();
    for number in FIRST..FIRST + count {
        let socket = listen(address);
        // Nothing else is open yet, so the numbers come in order and without a gap.
        assert_eq!(socket.into_raw_fd(), number, "something was open already");
    }
    let mut service = Command::new(program);
    service.args(arguments);
    service.env("LISTEN_FDS", count.to_string());
    service.env("LISTEN_PID", std::process::id().to_string());
    service.env("LISTEN_FDNAMES", vec!["web"; count as usize].join(":"));
    let error = service.exec();
    panic!("{error}");
}

fn listen(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    socket.set_reuse_port(true).expect("the option is there");
    socket.bind(&SockAddr::from(address)).expect("the address is free");
    socket.listen(1024).expect("a socket can listen");
    socket.set_cloexec(false).expect("a flag can be cleared");
    socket
}
