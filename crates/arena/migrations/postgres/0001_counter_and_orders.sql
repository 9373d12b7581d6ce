CREATE TABLE counters (
    name  TEXT   NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);

CREATE TABLE orders (
    id       TEXT   NOT NULL PRIMARY KEY,
    item     TEXT   NOT NULL,
    quantity BIGINT NOT NULL CHECK (quantity > 0)
);
