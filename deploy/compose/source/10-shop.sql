-- Something to replicate. The image runs this once, when it makes the data directory.

CREATE DATABASE shop;
USE shop;

CREATE TABLE customers (
  id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(100) NOT NULL,
  email VARCHAR(190) NULL,
  created_at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3)
);

CREATE TABLE orders (
  id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  customer_id INT UNSIGNED NOT NULL,
  state ENUM('new', 'paid', 'shipped') NOT NULL DEFAULT 'new',
  total DECIMAL(12, 2) NOT NULL,
  placed_at DATETIME(6) NULL,
  note TEXT NULL
);

CREATE TABLE order_items (
  order_id BIGINT UNSIGNED NOT NULL,
  product_id INT UNSIGNED NOT NULL,
  quantity SMALLINT UNSIGNED NOT NULL,
  price DECIMAL(10, 2) NOT NULL,
  PRIMARY KEY (order_id, product_id)
);

INSERT INTO customers (name, email) VALUES
  ('Ada Lovelace', 'ada@example.org'), ('José Núñez', NULL), ('山田 花子', 'hanako@example.org');
INSERT INTO orders (customer_id, state, total, placed_at, note) VALUES
  (1, 'paid', 129.90, '2024-02-29 12:00:00.000001', NULL),
  (2, 'new', 0.01, NULL, 'leave it at the door'),
  (3, 'shipped', 99999.99, '1999-12-31 23:59:59.999999', '🎁');
INSERT INTO order_items VALUES (1, 10, 1, 100.00), (1, 11, 2, 14.95), (2, 12, 1, 0.01), (3, 10, 1000, 100.00);
