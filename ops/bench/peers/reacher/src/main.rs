//! A contestant of `mailvet bench engine`: Reacher's check-if-email-exists, N addresses in flight.
//! Reads addresses on standard input, says "ready", prints "address<TAB>verdict" for each.
use std::io::{self, BufRead, Write};

use check_if_email_exists::smtp::verif_method::VerifMethod;
use check_if_email_exists::{check_email, CheckEmailInputBuilder, Reachable};
use futures::stream::{self, StreamExt};

async fn verdict(address: String) -> String {
    let method = VerifMethod::new_with_same_config_for_all(
        None,
        "bench.test".into(),
        "probe@bench.test".into(),
        25,
        Some(std::time::Duration::from_secs(30)),
        1,
    );
    let input = CheckEmailInputBuilder::default()
        .to_email(address.clone())
        .verif_method(method)
        .build()
        .expect("every field has a default");
    let word = match check_email(&input).await.is_reachable {
        Reachable::Safe => "deliverable",
        Reachable::Risky => "risky",
        Reachable::Invalid => "undeliverable",
        Reachable::Unknown => "unknown",
    };
    format!("{address}\t{word}\n")
}

#[tokio::main]
async fn main() {
    let in_flight: usize = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .expect("usage: reacher N <addresses");
    let addresses: Vec<String> = io::stdin().lock().lines().map_while(Result::ok).collect();
    println!("ready");
    let mut answers = stream::iter(addresses)
        .map(|address| tokio::spawn(verdict(address)))
        .buffer_unordered(in_flight);
    let mut out = io::BufWriter::new(io::stdout().lock());
    while let Some(line) = answers.next().await {
        let line = line.unwrap_or_default();
        out.write_all(line.as_bytes()).expect("standard output is closed");
    }
    out.flush().expect("standard output is closed");
}
