//! TLS session tickets whose keys outlive an upgrade: a client that has one resumes with the successor.
//!
//! rustls makes its own ticket keys, which nobody can take out of the process, so each upgrade would cost each client a
//! whole handshake. These are rotated every [`ROTATION`], and move to a successor as a state named [`STATE`]. They are
//! the only secret that moves: never the certificate's key.
//!
//! A ticket is the key's name, a random nonce, and the session under AES-256-GCM. What it is bound to
//! ([`Tickets::bound_to`]) is authenticated with it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

/// How long new tickets are made with one key, and how long a ticket can be used.
pub const ROTATION: Duration = Duration::from_secs(6 * 3600);

/// The name under which the keys move.
pub const STATE: &str = "tls-tickets";

/// The version of the state, which is one byte in front as well.
pub(crate) const VERSION: u32 = 1;

/// Keys kept at once: the one in use, and those whose tickets may still be alive.
const KEYS_AT_MOST: usize = 3;

const NAME: usize = 16;
const SECRET: usize = 32;
const RECORD: usize = NAME + SECRET + 8;

struct Key {
    name: [u8; NAME],
    secret: [u8; SECRET],
    aead: LessSafeKey,
    /// Seconds since 1970: it is compared in another process.
    made: u64,
}

impl Key {
    fn new(name: [u8; NAME], secret: [u8; SECRET], made: u64) -> Option<Key> {
        let aead = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &secret).ok()?);
        Some(Key { name, secret, aead, made })
    }

    fn random(random: &SystemRandom, made: u64) -> Option<Key> {
        let (mut name, mut secret) = ([0; NAME], [0; SECRET]);
        random.fill(&mut name).ok()?;
        random.fill(&mut secret).ok()?;
        Key::new(name, secret, made)
    }

    /// What a ticket is authenticated with besides its content.
    fn context(&self, bound_to: &[u8]) -> Vec<u8> {
        [&self.name[..], bound_to].concat()
    }
}

struct Keys {
    random: SystemRandom,
    /// Newest first.
    keys: Mutex<Vec<Key>>,
}

impl Keys {
    fn lock(&self) -> MutexGuard<'_, Vec<Key>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a new key in front when the newest is too old, and forgets those whose tickets have expired.
    fn rotate(&self, keys: &mut Vec<Key>, now: u64) {
        let age = |key: &Key| now.saturating_sub(key.made);
        if keys.first().is_none_or(|newest| age(newest) >= ROTATION.as_secs()) {
            // Without randomness the old key serves on: the system will not be without it for long.
            if let Some(key) = Key::random(&self.random, now) {
                keys.insert(0, key);
            }
        }
        keys.retain(|key| age(key) < 2 * ROTATION.as_secs());
        keys.truncate(KEYS_AT_MOST);
    }

    fn encrypt(&self, plain: &[u8], bound_to: &[u8], now: u64) -> Option<Vec<u8>> {
        let mut keys = self.lock();
        self.rotate(&mut keys, now);
        let key = keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(NAME + NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let content = &mut ticket[NAME + NONCE_LEN..];
        let aad = Aad::from(key.context(bound_to));
        let tag = key.aead.seal_in_place_separate_tag(nonce, aad, content).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8], bound_to: &[u8], now: u64) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME)?;
        let (nonce, content) = rest.split_at_checked(NONCE_LEN)?;
        let mut keys = self.lock();
        self.rotate(&mut keys, now);
        let key = keys.iter().find(|key| key.name == name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut content = content.to_vec();
        let aad = Aad::from(key.context(bound_to));
        let plain = key.aead.open_in_place(nonce, aad, &mut content).ok()?.len();
        content.truncate(plain);
        Some(content)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Makes and reads session tickets with keys that move to a successor; [`Lifecycle::tickets`](crate::Lifecycle::tickets)
/// gives those of a life.
///
/// Cheap to clone; clones share the keys. It is a [`rustls::server::ProducesTickets`], so it can be put into any
/// `ServerConfig` as its `ticketer`.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), lameduck::Error> {
/// use rustls::server::ProducesTickets;
///
/// let life = lameduck::Lifecycle::builder().without_signals().start()?;
/// let tickets = life.tickets()?;
/// let ticket = tickets.encrypt(b"a session").unwrap();
/// assert_eq!(tickets.decrypt(&ticket).unwrap(), b"a session");
/// assert!(tickets.bound_to(b"another client authority").decrypt(&ticket).is_none());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Tickets {
    keys: Arc<Keys>,
    bound_to: Arc<[u8]>,
}

impl Tickets {
    /// Goes on with a predecessor's keys, or begins with fresh ones. What cannot be read is as if there were none: it
    /// costs each client one whole handshake.
    pub(crate) fn new(left: Option<&[u8]>) -> Tickets {
        let keys = left.map(read).unwrap_or_default();
        let keys = Keys { random: SystemRandom::new(), keys: Mutex::new(keys) };
        Tickets { keys: Arc::new(keys), bound_to: Arc::from([]) }
    }

    /// The same keys, for tickets that are good only here and wherever else they are bound to the same.
    ///
    /// A resumed session is not asked for its certificate again. So bind the tickets of a server that asks for client
    /// certificates to what it trusts, its authorities' certificates for instance: where that changes, by a reload or by
    /// an upgrade, old tickets are worth nothing.
    pub fn bound_to(&self, context: &[u8]) -> Tickets {
        Tickets { keys: Arc::clone(&self.keys), bound_to: Arc::from(context) }
    }

    /// The keys as a state that moves.
    pub(crate) fn save(&self) -> Vec<u8> {
        let mut keys = self.keys.lock();
        // A successor that asks before the first handshake gets a key as well: both then make tickets with it.
        self.keys.rotate(&mut keys, now());
        let mut blob = vec![VERSION as u8];
        for key in keys.iter() {
            blob.extend_from_slice(&key.name);
            blob.extend_from_slice(&key.secret);
            blob.extend_from_slice(&key.made.to_be_bytes());
        }
        blob
    }
}

fn read(blob: &[u8]) -> Vec<Key> {
    let Some((&version, records)) = blob.split_first() else { return Vec::new() };
    if u32::from(version) != VERSION || records.len() % RECORD != 0 {
        return Vec::new();
    }
    let key = |record: &[u8]| {
        let (name, rest) = record.split_at(NAME);
        let (secret, made) = rest.split_at(SECRET);
        let made = u64::from_be_bytes(made.try_into().ok()?);
        Key::new(name.try_into().ok()?, secret.try_into().ok()?, made)
    };
    records.chunks_exact(RECORD).take(KEYS_AT_MOST).filter_map(key).collect()
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the keys.
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

impl rustls::server::ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        ROTATION.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys.encrypt(plain, &self.bound_to, now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.keys.decrypt(cipher, &self.bound_to, now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    #[test]
    fn a_ticket_is_read_by_the_successor() {
        let old = Tickets::new(None);
        let ticket = old.keys.encrypt(b"session", b"", now()).unwrap();
        let new = Tickets::new(Some(&old.save()));
        assert_eq!(new.keys.decrypt(&ticket, b"", now()).unwrap(), b"session");
        // And the other way, after a rollback.
        let ticket = new.keys.encrypt(b"session", b"", now()).unwrap();
        assert_eq!(old.keys.decrypt(&ticket, b"", now()).unwrap(), b"session");
    }

    #[test]
    fn a_ticket_lives_for_one_rotation_at_least_and_two_at_most() {
        let tickets = Tickets::new(None);
        let (begin, last) = (100 * HOUR, 106 * HOUR - 1);
        let first = tickets.keys.encrypt(b"first", b"", begin).unwrap();
        let late = tickets.keys.encrypt(b"late", b"", last).unwrap();
        assert_eq!(first[..NAME], late[..NAME], "one key for one rotation");
        let next = tickets.keys.encrypt(b"next", b"", last + 1).unwrap();
        assert_ne!(first[..NAME], next[..NAME]);
        assert!(tickets.keys.decrypt(&late, b"", last + 6 * HOUR).is_some());
        assert!(tickets.keys.decrypt(&first, b"", begin + 12 * HOUR).is_none());
        assert!(tickets.keys.lock().len() <= KEYS_AT_MOST);
    }

    #[test]
    fn what_was_tampered_with_is_no_ticket() {
        let tickets = Tickets::new(None);
        let ticket = tickets.keys.encrypt(b"session", b"ca", now()).unwrap();
        for at in 0..ticket.len() {
            let mut tampered = ticket.clone();
            tampered[at] ^= 1;
            assert!(tickets.keys.decrypt(&tampered, b"ca", now()).is_none(), "byte {at}");
            assert!(tickets.keys.decrypt(&ticket[..at], b"ca", now()).is_none(), "cut at {at}");
        }
        assert!(tickets.keys.decrypt(&ticket, b"another ca", now()).is_none());
    }

    #[test]
    fn a_state_that_cannot_be_read_is_as_none() {
        let blob = Tickets::new(None).save();
        let mut newer = blob.clone();
        newer[0] = 2;
        for odd in [&b""[..], &blob[..blob.len() - 1], &newer] {
            assert!(Tickets::new(Some(odd)).keys.lock().is_empty());
        }
    }
}
