//! The table of token refusals, and that the secret stays one.

use std::collections::BTreeMap;

use super::support::*;
use crate::{IdentityError, Token, TokenError, TokenRecord, TokenRequest};

fn make(request: TokenRequest) -> (Token, TokenRecord) {
    Token::generate(ca().spki_hash(), request, now()).unwrap()
}

fn secret(token: &Token) -> String {
    token.proof().split_once('.').unwrap().1.to_owned()
}

#[test]
fn each_refusal_has_its_reason() {
    let bound = TokenRequest { node: Some(node("edge-1")), ..TokenRequest::default() };
    let (token, record) = make(bound);
    let secret = secret(&token);
    let later = now() + hours(2);
    let changed = |change: &dyn Fn(&mut TokenRecord)| {
        let mut record = record.clone();
        change(&mut record);
        record
    };
    let edge = node("edge-1");
    let cases = [
        (record.clone(), secret.as_str(), now(), edge.clone(), Ok(())),
        (record.clone(), "wrong", now(), edge.clone(), Err(TokenError::WrongSecret)),
        (record.clone(), "", now(), edge.clone(), Err(TokenError::WrongSecret)),
        (record.clone(), &secret[1..], now(), edge.clone(), Err(TokenError::WrongSecret)),
        (record.clone(), &record.secret_hash, now(), edge.clone(), Err(TokenError::WrongSecret)),
        (changed(&|r| r.revoked = true), &secret, now(), edge.clone(), Err(TokenError::Revoked)),
        (record.clone(), &secret, record.expires, edge.clone(), Err(TokenError::Expired)),
        (record.clone(), &secret, later, edge.clone(), Err(TokenError::Expired)),
        (changed(&|r| r.created = later), &secret, now(), edge.clone(), Err(TokenError::NotYetValid)),
        (changed(&|r| r.uses_left = 0), &secret, now(), edge.clone(), Err(TokenError::UsedUp)),
        (record.clone(), &secret, now(), node("edge-2"), Err(TokenError::OtherNode)),
        // Without the secret, the state of the token is not told.
        (changed(&|r| r.revoked = true), "wrong", later, node("edge-2"), Err(TokenError::WrongSecret)),
        (changed(&|r| r.uses_left = 0), "wrong", now(), edge, Err(TokenError::WrongSecret)),
    ];
    for (record, secret, at, node, expected) in cases {
        assert_eq!(record.check(secret, at, &node), expected);
    }
}

#[test]
fn a_token_is_used_up_and_a_refusal_costs_no_use() {
    let (token, mut record) = make(TokenRequest { uses: 2, ..TokenRequest::default() });
    let secret = secret(&token);
    assert_eq!(record.spend("wrong", now(), &node("a")), Err(TokenError::WrongSecret));
    assert_eq!(record.spend(&secret, now(), &node("a")), Ok(()));
    assert_eq!(record.spend(&secret, now(), &node("b")), Ok(()));
    assert_eq!(record.spend(&secret, now(), &node("c")), Err(TokenError::UsedUp));
    assert_eq!(record.uses_left, 0);
}

#[test]
fn only_the_hash_is_stored_and_nothing_shows_the_secret() {
    let labels = BTreeMap::from([("site".to_owned(), "north".to_owned())]);
    let (token, record) = make(TokenRequest { labels, node: Some(node("edge-1")), ..TokenRequest::default() });
    let secret = secret(&token);
    let json = serde_json::to_string(&record).unwrap();
    assert!(!json.contains(&secret) && !format!("{token:?} {record:?}").contains(&secret));
    assert_eq!(serde_json::from_str::<TokenRecord>(&json).unwrap(), record);
    assert!(serde_json::from_str::<TokenRecord>(&json.replace("\"uses", "\"x")).is_err(), "unknown fields are refused");
    assert_eq!(secret.len(), 43, "256 bits");
}

#[test]
fn text_round_trips_and_nonsense_is_unknown() {
    let (token, record) = make(TokenRequest::default());
    assert_eq!(Token::parse(&format!(" {}\n", token.reveal())).unwrap(), token);
    let proof = token.proof();
    assert_eq!(Token::parse_proof(&proof).unwrap(), (record.id.as_str(), secret(&token).as_str()));
    assert_eq!(Token::parse_proof(&token.reveal()).unwrap(), Token::parse_proof(&proof).unwrap());
    let long = "a".repeat(10_000);
    for bad in [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c",
        &proof[1..],
        "0123456789.",
        "0123456789.a b",
        "../../etc.x",
        &long,
        &format!("0123456789.{long}"),
    ] {
        assert_eq!(Token::parse(bad), Err(TokenError::Unknown), "{bad:.40}");
        assert_eq!(Token::parse_proof(bad), Err(TokenError::Unknown), "{bad:.40}");
    }
    assert!(matches!(Token::generate("abc", TokenRequest::default(), now()), Err(IdentityError::Pin)));
}

#[test]
fn two_tokens_share_nothing() {
    let ((a, _), (b, record)) = (make(TokenRequest::default()), make(TokenRequest::default()));
    assert_ne!(a.id(), b.id());
    assert_eq!(record.check(&secret(&a), now(), &node("a")), Err(TokenError::WrongSecret));
}
