//! What is offered arrives, in as many parts as it takes, and is checked at both ends.

use super::super::wire::{
    self, MAX_DESCRIPTORS, MAX_LISTENERS, MAX_STATES, Message, Ready, Reason, Received,
};
use super::super::{Inventory, Limits, TAKEOVER_LONGEST, TAKEOVER_TIMEOUT};
use super::{inventory, listener, ready, state};

fn of_size(listeners: usize, states: usize) -> Inventory {
    Inventory {
        generation: 9,
        listeners: (0..listeners).map(|n| listener(&format!("server-{n}"))).collect(),
        states: (0..states).map(|n| state(&format!("state-{n}"))).collect(),
    }
}

#[test]
fn every_size_arrives_whole_in_frames_that_fit() {
    let sizes = [(0, 0), (1, 0), (0, 1), (249, 1), (250, 0), (250, 1), (251, 0), (499, 2)];
    for (listeners, states) in sizes.into_iter().chain([(MAX_LISTENERS, MAX_STATES)]) {
        let sent = of_size(listeners, states);
        let offers = sent.offers();
        let needed = (listeners + states).div_ceil(MAX_DESCRIPTORS).max(1);
        assert_eq!(offers.len(), needed, "{listeners} listeners and {states} states");
        let mut received = Inventory::default();
        for (at, offer) in offers.into_iter().enumerate() {
            assert_eq!(offer.last, at + 1 == needed);
            let message = Message::Offer(offer);
            let descriptors = message.descriptors();
            assert!(descriptors <= MAX_DESCRIPTORS);
            let frame = wire::encode(&message, 1).unwrap();
            let Ok(Received::Message(Message::Offer(offer))) = wire::decode(&frame, descriptors)
            else {
                panic!("the offer did not arrive");
            };
            received.add(offer).unwrap();
        }
        assert_eq!(received, sent);
    }
}

#[test]
fn more_than_the_limits_is_refused_by_number() {
    let why = of_size(MAX_LISTENERS + 1, 0).check().unwrap_err();
    assert_eq!(why.to_string(), "limit reached: 501 listeners, 500 are the most");
    let why = of_size(0, MAX_STATES + 1).check().unwrap_err();
    assert_eq!(why.to_string(), "limit reached: 65 states, 64 are the most");
}

#[test]
fn what_is_there_twice_is_refused_by_name() {
    let mut twice = inventory();
    twice.listeners.push(listener("http"));
    let why = twice.check().unwrap_err();
    assert_eq!(why.to_string(), "listener names do not fit: two listeners are named http");
    let mut twice = inventory();
    twice.states.push(state("counter"));
    let why = twice.check().unwrap_err();
    assert_eq!(why.to_string(), "state not readable: two states are named counter");
}

#[test]
fn parts_of_two_generations_do_not_make_one_offer() {
    let mut received = Inventory::default();
    let [mut one, mut two] = [inventory().offers().remove(0), of_size(1, 0).offers().remove(0)];
    (one.last, two.last) = (false, true);
    received.add(one).unwrap();
    let why = received.add(two).unwrap_err();
    assert_eq!((why.reason, why.text.as_str()), (Reason::Unexpected, "generation 2 became 9"));
}

#[test]
fn each_listener_is_used_or_dropped_once() {
    let inventory = inventory();
    let why = |ready: &Ready| inventory.fits(ready).unwrap_err().text;
    assert_eq!(inventory.fits(&ready(&["http", "admin"], &[])), Ok(()));
    assert_eq!(inventory.fits(&ready(&[], &["admin", "http"])), Ok(()));
    assert_eq!(why(&ready(&["http"], &[])), "admin is neither used nor dropped");
    assert_eq!(why(&ready(&["http"], &["http", "admin"])), "http is used or dropped twice");
    assert_eq!(why(&ready(&["http", "web"], &["admin"])), "web was never offered");
}

#[test]
fn the_limits_leave_a_living_predecessor_the_first_word() {
    let limits = Limits::default();
    assert!(limits.state < limits.commit);
    assert!(TAKEOVER_TIMEOUT <= TAKEOVER_LONGEST);
}
