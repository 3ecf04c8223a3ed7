//! Text for people.

mod denials;
mod doctor;
mod endpoints;
mod explain;
mod logging;
mod policies;
mod status;

pub use denials::denial;
pub use doctor::doctor;
pub use endpoints::endpoints;
pub use explain::explain;
pub use logging::logging;
pub use policies::{laggards, last_policy, policies, policy};
pub use status::status;

use comfy_table::{Table, presets};

/// Text as it may be shown on a terminal. Tenants choose names and annotations: without this, a pod
/// could move the cursor of whoever looks at it.
fn plain(text: &str) -> String {
    let harmless = |character: char| -> String {
        if character.is_control() { character.escape_default().to_string() } else { character.to_string() }
    };
    text.chars().map(harmless).collect()
}

/// Columns, two spaces apart, as wide as what is in them.
fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| plain(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// `-` for what is not there.
fn or_dash<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(|| "-".to_owned(), T::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_tenant_reaches_the_terminal_raw() {
        assert_eq!(plain("a\u{1b}[2J\nb"), "a\\u{1b}[2J\\nb");
        let shown = table(["A", "B"], [["x\ny".to_owned(), "z".to_owned()], ["1".to_owned(), "2".to_owned()]]);
        assert_eq!(shown, "A     B\nx\\ny  z\n1     2\n");
    }
}
