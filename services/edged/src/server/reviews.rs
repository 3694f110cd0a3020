//! What the cloud says about callers: whose a token is, and whether they may.
//!
//! Asked over EdgeHub for callers that are not services of ours. Answers are kept as the kubelet keeps
//! them: [`KEEP_ALLOWED`] and [`KEEP_DENIED`], by a hash of the token. While the cloud cannot be asked,
//! nobody new is let in. Limits: [`MAX_KEPT`], [`AT_ONCE`], [`WITHIN`], [`MAX_TOKEN`].

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use skerry_proto::review::v1::review_request::Who;
use skerry_proto::review::v1::reviews_client::ReviewsClient;
use skerry_proto::review::v1::{ReviewRequest, User};
use skerry_rpc::{Channel, deadline};
use tokio::sync::Semaphore;
use tokio::time::Instant;

const KEEP_ALLOWED: Duration = Duration::from_secs(5 * 60);
const KEEP_DENIED: Duration = Duration::from_secs(30);
/// Answers that are kept: callers of a node are few.
const MAX_KEPT: usize = 1024;
/// Questions at once; further ones wait, at most [`WITHIN`].
const AT_ONCE: usize = 8;
/// A question and its way to the Kubernetes API and back.
const WITHIN: Duration = Duration::from_secs(10);
/// Longest token that is asked about; those of Kubernetes have about 1 KB.
pub(super) const MAX_TOKEN: usize = 8 * 1024;

/// Somebody with a credential.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    Token(String),
    User { name: String, groups: Vec<String> },
}

/// What the cloud said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Allowed,
    /// This user may not.
    Denied(String),
    /// The token is nobody's.
    Nobody,
    /// The cloud could not be asked.
    Unknown,
}

type Question = [u8; 32];

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Reviews {
    client: ReviewsClient<Channel>,
    kept: Mutex<HashMap<Question, (Verdict, Instant)>>,
    places: Semaphore,
}

impl Reviews {
    pub(super) fn new(channel: Channel) -> Self {
        Self { client: ReviewsClient::new(channel), kept: Mutex::default(), places: Semaphore::new(AT_ONCE) }
    }

    pub(super) async fn ask(&self, caller: Caller, verb: &str, subresource: &str) -> Verdict {
        let question = question(&caller, verb, subresource);
        if let Some(kept) = self.kept(&question, Instant::now()) {
            return kept;
        }
        let asking = async {
            let _place = self.places.acquire().await;
            // Somebody else may have asked meanwhile.
            if let Some(kept) = self.kept(&question, Instant::now()) {
                return kept;
            }
            let who = match caller {
                Caller::Token(token) => Who::Token(token),
                Caller::User { name, groups } => Who::User(User { name, groups }),
            };
            let (verb, subresource) = (verb.to_owned(), subresource.to_owned());
            let request = ReviewRequest { node: String::new(), who: Some(who), verb, subresource };
            match self.client.clone().review(deadline(request, WITHIN)).await.map(tonic::Response::into_inner) {
                Ok(answer) if answer.user.is_empty() => Verdict::Nobody,
                Ok(answer) if answer.allowed => Verdict::Allowed,
                Ok(answer) => Verdict::Denied(answer.user),
                Err(status) => {
                    tracing::warn!(code = ?status.code(), "the cloud did not review a caller");
                    Verdict::Unknown
                }
            }
        };
        let verdict = tokio::time::timeout(WITHIN, asking).await.unwrap_or(Verdict::Unknown);
        self.keep(question, verdict.clone(), Instant::now());
        verdict
    }

    fn kept(&self, question: &Question, now: Instant) -> Option<Verdict> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(question).filter(|(_, until)| now < *until).map(|(verdict, _)| verdict.clone())
    }

    fn keep(&self, question: Question, verdict: Verdict, now: Instant) {
        let until = now
            + match verdict {
                Verdict::Allowed => KEEP_ALLOWED,
                Verdict::Denied(_) | Verdict::Nobody => KEEP_DENIED,
                Verdict::Unknown => return,
            };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT {
            kept.retain(|_, (_, until)| now < *until);
        }
        if kept.len() >= MAX_KEPT {
            // Somebody guesses. What is known good is asked for again, which costs a moment.
            kept.clear();
        }
        kept.insert(question, (verdict, until));
    }
}

/// A hash, so that no token is kept. Lengths go before words: no two questions look the same.
fn question(caller: &Caller, verb: &str, subresource: &str) -> Question {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut word = |text: &str| {
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    };
    match caller {
        Caller::Token(token) => {
            word("token");
            word(token);
        }
        Caller::User { name, groups } => {
            word("user");
            word(name);
            groups.iter().for_each(|group| word(group));
        }
    }
    word(verb);
    word(subresource);
    let mut out = Question::default();
    out.copy_from_slice(context.finish().as_ref());
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn reviews() -> Reviews {
        let (listener, connector) = skerry_rpc::pipe();
        drop(listener);
        Reviews::new(Channel::pipe(connector))
    }

    fn of(number: usize) -> Question {
        question(&Caller::Token(number.to_string()), "get", "proxy")
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_and_for_how_long() {
        let reviews = reviews();
        for (number, verdict, keep) in [
            (1, Verdict::Allowed, Some(KEEP_ALLOWED)),
            (2, Verdict::Denied("ann".into()), Some(KEEP_DENIED)),
            (3, Verdict::Nobody, Some(KEEP_DENIED)),
            (4, Verdict::Unknown, None),
        ] {
            let now = Instant::now();
            reviews.keep(of(number), verdict.clone(), now);
            let Some(keep) = keep else {
                assert_eq!(reviews.kept(&of(number), now), None);
                continue;
            };
            assert_eq!(reviews.kept(&of(number), now + keep - Duration::from_millis(1)), Some(verdict));
            assert_eq!(reviews.kept(&of(number), now + keep), None);
        }
        for number in 0..MAX_KEPT * 2 {
            reviews.keep(of(number), Verdict::Nobody, Instant::now());
        }
        assert!(reviews.kept.lock().unwrap().len() <= MAX_KEPT);
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_cloud_nobody_is_let_in() {
        let reviews = reviews();
        assert_eq!(reviews.ask(Caller::Token("t".into()), "get", "proxy").await, Verdict::Unknown);
        assert!(reviews.kept.lock().unwrap().is_empty());
    }

    #[test]
    fn questions_differ_when_anything_does() {
        let user = |name: &str, groups: &[&str]| Caller::User {
            name: name.into(),
            groups: groups.iter().map(|g| (*g).into()).collect(),
        };
        let all = [
            question(&Caller::Token("a".into()), "get", "proxy"),
            question(&Caller::Token("a".into()), "create", "proxy"),
            question(&Caller::Token("a".into()), "get", "stats"),
            question(&user("a", &[]), "get", "proxy"),
            question(&user("a", &["b"]), "get", "proxy"),
            question(&user("a", &["b", "c"]), "get", "proxy"),
            question(&user("a", &["bc"]), "get", "proxy"),
            question(&user("ab", &["c"]), "get", "proxy"),
        ];
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
    }
}
