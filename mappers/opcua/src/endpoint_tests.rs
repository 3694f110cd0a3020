//! Which endpoint and which user are taken of what a server, or somebody on the line, offers.

use opcua::types::ByteString;
use serde_json::json;

use super::*;

fn config(more: serde_json::Value) -> ProtocolConfig {
    let mut config = json!({ "url": "opc.tcp://10.0.0.1:4840" });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let serde_json::Value::Object(object) = config else { panic!("an object") };
    ProtocolConfig::parse(object).unwrap()
}

fn endpoint(
    policy: SecurityPolicy,
    mode: MessageSecurityMode,
    tokens: &[(UserTokenType, &str)],
) -> EndpointDescription {
    let token = |(token_type, uri): &(UserTokenType, &str)| UserTokenPolicy {
        policy_id: format!("{token_type:?} {uri}").into(),
        token_type: *token_type,
        security_policy_uri: (*uri).into(),
        ..UserTokenPolicy::default()
    };
    EndpointDescription {
        endpoint_url: "opc.tcp://plc-7:4840/ua".into(),
        security_policy_uri: policy.to_uri().into(),
        security_mode: mode,
        server_certificate: ByteString::from(b"certificate"),
        user_identity_tokens: Some(tokens.iter().map(token).collect()),
        ..EndpointDescription::default()
    }
}

const NONE: (SecurityPolicy, MessageSecurityMode) = (SecurityPolicy::None, MessageSecurityMode::None);
const SIGN: (SecurityPolicy, MessageSecurityMode) = (SecurityPolicy::Basic256Sha256, MessageSecurityMode::Sign);
const BOTH: (SecurityPolicy, MessageSecurityMode) =
    (SecurityPolicy::Basic256Sha256, MessageSecurityMode::SignAndEncrypt);
const OPEN: &str = "http://opcfoundation.org/UA/SecurityPolicy#None";
const SAFE_URI: &str = "http://opcfoundation.org/UA/SecurityPolicy#Basic256Sha256";
const WITHDRAWN: &str = "http://opcfoundation.org/UA/SecurityPolicy#Basic128Rsa15";

#[test]
fn the_device_says_what_is_taken_and_how_it_is_reached() {
    let anonymous = [(UserTokenType::Anonymous, "")];
    let offered = vec![endpoint(NONE.0, NONE.1, &anonymous), endpoint(BOTH.0, BOTH.1, &anonymous)];
    let taken = choose(offered.clone(), &config(json!({ "securityPolicy": "Basic256Sha256" }))).unwrap();
    assert_eq!((taken.security_mode, taken.endpoint_url.as_ref()), (BOTH.1, "opc.tcp://10.0.0.1:4840"));
    // What is stronger, or weaker, or of another transport, is not taken instead.
    let problem = choose(offered, &config(json!({ "securityPolicy": "Aes256Sha256RsaPss" }))).unwrap_err().to_string();
    assert!(
        problem.contains("Aes256Sha256RsaPss") && problem.contains("it has: Basic256Sha256/SignAndEncrypt, None/None"),
        "{problem}"
    );
    let mut https = endpoint(NONE.0, NONE.1, &anonymous);
    https.endpoint_url = "https://plc-7/ua".into();
    assert!(matches!(choose(vec![https], &config(json!({}))), Err(OpenError::NoEndpoint { .. })));
    let problem = choose(Vec::new(), &config(json!({}))).unwrap_err().to_string();
    assert!(problem.ends_with("it has: nothing"), "{problem}");
}

#[test]
fn a_password_is_not_encrypted_with_less_than_the_device_wants() {
    let password = |more: serde_json::Value| {
        let mut config_json = json!({ "userName": "a", "password": "/p" });
        config_json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config(config_json)
    };
    let sign = password(json!({ "securityPolicy": "Basic256Sha256", "securityMode": "Sign" }));
    let both = password(json!({ "securityPolicy": "Basic256Sha256" }));
    let plain = password(json!({ "plaintextPassword": true }));
    let table = [
        (&sign, SIGN, "", true),
        (&sign, SIGN, SAFE_URI, true),
        (&sign, SIGN, OPEN, false),
        (&sign, SIGN, WITHDRAWN, false),
        (&both, BOTH, OPEN, true),
        (&both, BOTH, WITHDRAWN, false),
        (&plain, NONE, OPEN, true),
        (&plain, NONE, "", true),
        (&plain, NONE, SAFE_URI, true),
        (&plain, NONE, WITHDRAWN, false),
        (&plain, NONE, "urn:unknown", false),
    ];
    for (config, (policy, mode), uri, taken) in table {
        let offered = vec![endpoint(policy, mode, &[(UserTokenType::UserName, uri)])];
        assert_eq!(choose(offered, config).is_ok(), taken, "{mode} {uri}");
    }
    // There is nothing to encrypt with.
    let mut bare = endpoint(NONE.0, NONE.1, &[(UserTokenType::UserName, SAFE_URI)]);
    bare.server_certificate = ByteString::null();
    assert!(choose(vec![bare], &plain).is_err());
}

#[test]
fn the_user_is_the_one_of_the_device() {
    let tokens = [(UserTokenType::UserName, ""), (UserTokenType::Certificate, "")];
    let offered = vec![endpoint(BOTH.0, BOTH.1, &tokens)];
    let certificate = json!({ "securityPolicy": "Basic256Sha256", "userCertificate": "/c", "userPrivateKey": "/k" });
    let taken = choose(offered.clone(), &config(certificate)).unwrap();
    let tokens = taken.user_identity_tokens.unwrap();
    assert_eq!((tokens.len(), tokens[0].token_type), (1, UserTokenType::Certificate));
    assert_eq!(tokens[0].security_policy_uri.as_ref(), SAFE_URI, "the endpoint's policy, said explicitly");
    let problem = choose(offered, &config(json!({ "securityPolicy": "Basic256Sha256" }))).unwrap_err().to_string();
    assert!(problem.contains("takes no anonymous users") && problem.contains("UserName"), "{problem}");
}
