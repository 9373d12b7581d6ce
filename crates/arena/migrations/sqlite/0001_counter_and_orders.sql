-- Both tables are looked up by their key alone, so the key's tree is the table.
CREATE TABLE counters (
    name  TEXT    NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE orders (
    id       TEXT    NOT NULL PRIMARY KEY,
    item     TEXT    NOT NULL,
    quantity INTEGER NOT NULL CHECK (quantity > 0)
) STRICT, WITHOUT ROWID;
