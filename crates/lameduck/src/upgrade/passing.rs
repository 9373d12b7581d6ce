//! What one generation tells the one that serves, whichever that is by now.

use std::io;
use std::sync::Arc;

use super::Upgrades;
use super::sending::{SEEK, SEEK_PAUSE};
use crate::control::Message as ToControl;
use crate::conversation::SEND;
use crate::exit;
use crate::generation::Input;
use crate::generations::Place;
use crate::operate::RELOAD;
use crate::takeover::channel::{AsyncChannel, Came, Channel};
use crate::takeover::wire::{Command, Message};

impl Upgrades {
    /// Tells whoever serves that a signal to upgrade came.
    pub(super) fn pass_on(&self) {
        let (place, own) = (self.parts.place.clone(), self.parts.own);
        let (control, log) = (Arc::clone(&self.control), Arc::clone(&self.parts.log));
        drop(self.parts.runtime.spawn(async move {
            let done = pass_on(&place, own).await;
            if done.is_ok() {
                log.line("reload-passed-on", "Passed on to the generation that serves: SIGHUP");
            }
            control.send(ToControl::Input(Input::PassedOn(done)));
        }));
    }
}

/// Says `verb` to whoever the control name leads to, and returns the conversation and its words when that agrees. Its caller
/// bounds it.
pub(super) async fn tell(
    place: &Place,
    own: u32,
    verb: &str,
) -> io::Result<(AsyncChannel, String)> {
    let channel = Channel::connect_when_there_is_room(place.name()).await?;
    channel.check_peer()?;
    let channel = channel.into_async()?;
    let command = Command { verb: verb.to_owned(), arguments: vec![format!("generation {own}")] };
    channel.send(&Message::Command(command), &[]).await?;
    match channel.receive().await? {
        Came::Message(Message::Reply(reply), _) if reply.code == exit::OK => {
            Ok((channel, reply.text))
        }
        Came::Message(Message::Reply(reply), _) => {
            Err(io::Error::new(io::ErrorKind::ConnectionRefused, reply.text))
        }
        Came::Message(..) | Came::End => Err(io::ErrorKind::ConnectionRefused.into()),
    }
}

/// Tells whoever serves that the newest version is to serve. At the moment of another upgrade it is looked for a few times.
async fn pass_on(place: &Place, own: u32) -> Result<(), String> {
    let mut why = String::new();
    for _ in 0..SEEK {
        why = match place.leads_to(own) {
            true => {
                "this generation has handed the service on, and no other has its name".to_owned()
            }
            false => match tokio::time::timeout(SEND, tell(place, own, RELOAD)).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => {
                    format!("the generation that serves could not be told: {error}")
                }
                Err(_) => format!("the generation that serves did not answer within {SEND:?}"),
            },
        };
        tokio::time::sleep(SEEK_PAUSE).await;
    }
    Err(why)
}
