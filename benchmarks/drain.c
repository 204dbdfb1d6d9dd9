/* Fetches a binlog as a replica does and throws it away: the least that any reader of it can cost.

   usage: drain PORT FILE ROTATES BYTES TLS SERVER_ID
     Logs in to 127.0.0.1:PORT as root without a password (a private server), asks for the log from the beginning of
     FILE, and reads until BYTES bytes have come. BYTES 0: walks the packets instead, until the ROTATES-th real rotate
     event (the end of that many files), and prints how many bytes that took. TLS: 0 or 1.

   Built with -DWITH_TLS -lssl -lcrypto where OpenSSL's headers are there. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/ssl.h>
static SSL *tls;
#endif

enum {
    RECEIVE_BYTES = 256 * 1024,
    CLIENT_LONG_PASSWORD = 1,
    CLIENT_PROTOCOL_41 = 0x200,
    CLIENT_SSL = 0x800,
    CLIENT_SECURE_CONNECTION = 0x8000,
    CLIENT_PLUGIN_AUTH = 0x80000,
    COM_QUERY = 3,
    COM_BINLOG_DUMP = 0x12,
    ROTATE_EVENT = 4,
};

static int sock;
static uint8_t *buffer;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static size_t receive_some(void *to, size_t most)
{
#ifdef WITH_TLS
    if (tls) {
        int got = SSL_read(tls, to, (int)most);
        if (got <= 0) {
            fprintf(stderr, "drain: SSL_read failed\n");
            exit(1);
        }
        return (size_t)got;
    }
#endif
    ssize_t got = read(sock, to, most);
    if (got < 0)
        fail("read");
    if (got == 0) {
        fprintf(stderr, "drain: the server closed the connection\n");
        exit(1);
    }
    return (size_t)got;
}

static void receive(void *to, size_t size)
{
    for (size_t at = 0; at < size;)
        at += receive_some((uint8_t *)to + at, size - at);
}

static void send_all(const void *from, size_t size)
{
#ifdef WITH_TLS
    if (tls) {
        if (SSL_write(tls, from, (int)size) != (int)size) {
            fprintf(stderr, "drain: SSL_write failed\n");
            exit(1);
        }
        return;
    }
#endif
    if (write(sock, from, size) != (ssize_t)size)
        fail("write");
}

static uint8_t sequence;

/* One packet into `buffer`; its length. Sequence numbers are the sender's. */
static size_t receive_packet(void)
{
    uint8_t head[4];
    receive(head, 4);
    size_t size = head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16;
    sequence = head[3];
    if (size > RECEIVE_BYTES) {
        fprintf(stderr, "drain: packet of %zu bytes before the log\n", size);
        exit(1);
    }
    receive(buffer, size);
    return size;
}

static void send_packet(const void *payload, size_t size, uint8_t number)
{
    uint8_t packet[1024] = {(uint8_t)size, (uint8_t)(size >> 8), 0, number};
    memcpy(packet + 4, payload, size);
    send_all(packet, size + 4);
}

static void expect_ok(const char *what)
{
    size_t size = receive_packet();
    if (buffer[0] == 0xff) {
        fprintf(stderr, "drain: %s: %.*s\n", what, (int)(size - 3), buffer + 3);
        exit(1);
    }
}

static void put32(uint8_t *to, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(value >> 8 * i);
}

static void log_in(int with_tls)
{
    receive_packet();
    int is_mariadb = memmem(buffer, 100, "MariaDB", 7) != NULL;
    uint8_t answer[256] = {0};
    uint32_t flags = CLIENT_LONG_PASSWORD | CLIENT_PROTOCOL_41 | CLIENT_SECURE_CONNECTION | CLIENT_PLUGIN_AUTH;
    if (with_tls)
        flags |= CLIENT_SSL;
    put32(answer, flags);
    put32(answer + 4, 1 << 24);
    answer[8] = 45;
    uint8_t number = 1;
    if (with_tls) {
#ifdef WITH_TLS
        send_packet(answer, 32, number++);
        SSL_CTX *context = SSL_CTX_new(TLS_client_method());
        SSL *fresh = SSL_new(context);
        SSL_set_fd(fresh, sock);
        if (SSL_connect(fresh) != 1) {
            fprintf(stderr, "drain: no TLS with this server\n");
            exit(1);
        }
        tls = fresh;
#else
        fprintf(stderr, "drain: built without TLS\n");
        exit(1);
#endif
    }
    size_t size = 32;
    memcpy(answer + size, "root", 5);
    size += 5;
    answer[size++] = 0; /* no password */
    const char *plugin = is_mariadb ? "mysql_native_password" : "caching_sha2_password";
    memcpy(answer + size, plugin, strlen(plugin) + 1);
    size += strlen(plugin) + 1;
    send_packet(answer, size, number);
    expect_ok("login");
    if (buffer[0] == 0xfe) { /* another plugin: nothing to say there either */
        send_packet("", 0, (uint8_t)(sequence + 1));
        expect_ok("login");
    }
    if (buffer[0] == 1)
        expect_ok("login");
}

static void query(const char *sql)
{
    uint8_t command[512] = {COM_QUERY};
    size_t size = strlen(sql);
    memcpy(command + 1, sql, size);
    send_packet(command, size + 1, 0);
    expect_ok(sql);
}

/* Packets one after the other, across reads; stops after the one that ends the last file. */
static uint64_t walk(int rotates)
{
    uint64_t total = 0;
    uint64_t left = 0; /* of the packet's payload */
    uint8_t head[4 + 1 + 19];
    size_t known = 0, taken = 0;
    int is_continued = 0, ends_here = 0;
    for (;;) {
        size_t got = receive_some(buffer, RECEIVE_BYTES);
        size_t at = 0;
        while (at < got) {
            if (left) {
                size_t step = got - at < left ? got - at : (size_t)left;
                for (size_t i = 0; known < sizeof head && i < step && !is_continued; i++)
                    head[known++] = buffer[at + i];
                at += step;
                left -= step;
                total += step;
            } else {
                head[taken++] = buffer[at++];
                total++;
                if (taken < 4)
                    continue;
                left = head[0] | (uint64_t)head[1] << 8 | (uint64_t)head[2] << 16;
                known = 4;
            }
            if (left || taken < 4)
                continue;
            uint64_t length = head[0] | (uint64_t)head[1] << 8 | (uint64_t)head[2] << 16;
            if (!is_continued && known == sizeof head) {
                if (head[4] != 0) {
                    fprintf(stderr, "drain: the stream ended too early\n");
                    exit(1);
                }
                uint32_t timestamp, log_pos;
                memcpy(&timestamp, head + 5, 4);
                memcpy(&log_pos, head + 5 + 13, 4);
                /* A rotate event without a time is made up by the sender. */
                if (head[5 + 4] == ROTATE_EVENT && timestamp && log_pos && --rotates == 0)
                    ends_here = 1;
            }
            is_continued = length == 0xffffff;
            if (ends_here && !is_continued)
                return total;
            taken = 0;
        }
    }
}

int main(int argc, char **argv)
{
    if (argc != 7) {
        fprintf(stderr, "usage: drain PORT FILE ROTATES BYTES TLS SERVER_ID\n");
        return 2;
    }
    uint64_t bytes = strtoull(argv[4], NULL, 10);
    buffer = malloc(RECEIVE_BYTES);
    sock = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(sock, (struct sockaddr *)&address, sizeof address))
        fail("connect");
    int on = 1;
    setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    log_in(atoi(argv[5]));
    query("SET @master_binlog_checksum=@@global.binlog_checksum, @source_binlog_checksum=@@global.binlog_checksum, "
          "@mariadb_slave_capability=4");
    uint8_t command[256] = {COM_BINLOG_DUMP};
    put32(command + 1, 4); /* where every file begins */
    put32(command + 7, (uint32_t)strtoul(argv[6], NULL, 10));
    memcpy(command + 11, argv[2], strlen(argv[2]));
    send_packet(command, 11 + strlen(argv[2]), 0);
    if (!bytes)
        bytes = walk(atoi(argv[3]));
    else
        for (uint64_t left = bytes; left;)
            left -= receive_some(buffer, left < RECEIVE_BYTES ? (size_t)left : RECEIVE_BYTES);
    printf("{\"bytes\": %llu}\n", (unsigned long long)bytes);
    return 0;
}
