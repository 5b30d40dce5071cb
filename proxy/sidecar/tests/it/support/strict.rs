//! A reader of HTTP/1.1 requests that takes only what every other reader would understand in the same way (RFC 9110,
//! RFC 9112), and nothing that a server may tolerate.

use super::raw::Raw;

/// Reads the next request; whether there was a whole one. The end of the connection in the middle of one is taken for
/// whole by nobody.
///
/// # Errors
/// What is doubtful about it.
pub(crate) async fn request(from: &mut Raw) -> Result<bool, String> {
    let Some(line) = from.line().await else {
        return Ok(false);
    };
    let line = text(&line, "request line")?;
    check_line(&line)?;
    let mut fields = Vec::new();
    loop {
        let Some(field) = from.line().await else {
            return Ok(false);
        };
        let field = text(&field, "field")?;
        if field.is_empty() {
            break;
        }
        fields.push(split(&field)?);
    }
    body(&line, &fields, from).await
}

/// A line, without a CR, NUL or other control but a tab.
fn text(line: &[u8], what: &str) -> Result<String, String> {
    let doubtful = |byte: &u8| *byte == 0x7f || (*byte < 0x20 && *byte != b'\t');
    match line.iter().any(doubtful) {
        true => Err(format!("{what} with a control: {:?}", String::from_utf8_lossy(line))),
        false => Ok(line.iter().map(|byte| char::from(*byte)).collect()),
    }
}

fn is_token(text: &str) -> bool {
    let symbol = |byte| b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || symbol(byte))
}

fn check_line(line: &str) -> Result<(), String> {
    let words: Vec<&str> = line.split(' ').collect();
    let [method, target, version] = words[..] else {
        return Err(format!("a request line of {} words: {line:?}", words.len()));
    };
    let path = target.starts_with('/') && target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    let fine = is_token(method) && (path || (method == "OPTIONS" && target == "*")) && version == "HTTP/1.1";
    if fine { Ok(()) } else { Err(format!("a doubtful request line: {line:?}")) }
}

fn split(field: &str) -> Result<(String, String), String> {
    match field.split_once(':') {
        Some((name, value)) if is_token(name) => {
            Ok((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()))
        }
        _ => Err(format!("a doubtful field: {field:?}")),
    }
}

async fn body(line: &str, fields: &[(String, String)], from: &mut Raw) -> Result<bool, String> {
    let all = |name: &str| -> Vec<&str> {
        fields.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str()).collect()
    };
    let hosts = all("host");
    if hosts.len() != 1 || hosts[0].is_empty() || hosts[0].contains([' ', '/', '@', ',', '?', '#']) {
        return Err(format!("hosts {hosts:?} of {line:?}"));
    }
    match (all("transfer-encoding").as_slice(), all("content-length").as_slice()) {
        ([], []) => Ok(true),
        ([], [length]) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
            let length = length.parse().map_err(|error| format!("length {length}: {error}"))?;
            Ok(from.try_exactly(length).await.is_some())
        }
        (["chunked"], []) => chunks(from).await,
        (codings, lengths) => Err(format!("codings {codings:?} and lengths {lengths:?} of {line:?}")),
    }
}

async fn chunks(from: &mut Raw) -> Result<bool, String> {
    loop {
        let Some(size) = from.line().await else {
            return Ok(false);
        };
        let size = text(&size, "size of a chunk")?;
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("size of a chunk: {size:?}"));
        }
        let size = usize::from_str_radix(&size, 16).map_err(|error| format!("{size}: {error}"))?;
        if size == 0 {
            break;
        }
        let Some(data) = from.try_exactly(size + 2).await else {
            return Ok(false);
        };
        if !data.ends_with(b"\r\n") {
            return Err("a chunk longer than its size".to_owned());
        }
    }
    loop {
        let Some(trailer) = from.line().await else {
            return Ok(false);
        };
        let trailer = text(&trailer, "trailer")?;
        if trailer.is_empty() {
            return Ok(true);
        }
        let (name, _) = split(&trailer)?;
        if ["content-length", "transfer-encoding", "host", "connection"].contains(&name.as_str()) {
            return Err(format!("a trailer that frames or routes: {trailer:?}"));
        }
    }
}
