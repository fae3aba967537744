//! A page with many pictures, as pages have them: a browser asks for all of them at once, over many connections.

use std::fmt::Write as _;

/// As many as the page shows.
pub const COUNT: usize = 100;
/// The page may show pictures of its own site, nothing else.
pub const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; base-uri 'none'; \
                          form-action 'none'; frame-ancestors 'none'";

const HEIGHT: usize = 64;

/// The page that shows them all.
pub fn page() -> String {
    let mut page = String::from(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>Phantom: pictures</title>\n\
         <style>body { background: #10131f; margin: 2rem; line-height: 0 } img { margin: .2rem; border-radius: .4rem }</style>\n\
         </head>\n<body>\n",
    );
    for number in 0..COUNT {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "<img src=\"/images/{number}\" alt=\"{number}\">");
    }
    page.push_str("</body>\n</html>\n");
    page
}

/// One picture. Each has a width of its own, so that a browser can tell whether it got the right one.
pub fn picture(number: usize) -> Option<String> {
    let (width, hue) = (HEIGHT + number, number * 360 / COUNT);
    (number < COUNT).then(|| {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{HEIGHT}\">\
             <rect width=\"100%\" height=\"100%\" fill=\"hsl({hue},60%,45%)\"/>\
             <text x=\"50%\" y=\"50%\" fill=\"#fff\" font-family=\"sans-serif\" text-anchor=\"middle\" \
             dominant-baseline=\"central\">{number}</text></svg>\n"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_every_picture_and_no_other() {
        let page = page();
        assert_eq!(page.matches("<img ").count(), COUNT);
        for number in 0..COUNT {
            assert!(page.contains(&format!("src=\"/images/{number}\"")), "{number}");
            assert!(picture(number).unwrap().contains(&format!("width=\"{}\"", HEIGHT + number)));
        }
        assert!(picture(COUNT).is_none());
    }
}
