// Reads a log as users of go-mysql do and says what it has read, in the figures of ../summary.py.
//
// usage: gomysql SPEC RESULT
//
// Settings are the fastest sensible ones: decimals as strings, times as time.Time, checksums not verified (the
// library's default), no GTID sets kept.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/go-mysql-org/go-mysql/canal"
	"github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-mysql-org/go-mysql/replication"
	"github.com/siddontang/go-log/log"
)

type column struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

type spec struct {
	Host        string   `json:"host"`
	Port        uint16   `json:"port"`
	User        string   `json:"user"`
	Family      string   `json:"family"`
	ServerID    uint32   `json:"server_id"`
	TLS         bool     `json:"tls"`
	Verify      bool     `json:"verify"`
	Reader      string   `json:"reader"` // syncer or canal
	Database    string   `json:"database"`
	Table       string   `json:"table"`
	Files       []string `json:"files"`
	TextColumns []string `json:"text_columns"`
	Columns     []column `json:"columns"`
}

type summary struct {
	Inserts   int64   `json:"inserts"`
	Updates   int64   `json:"updates"`
	Deletes   int64   `json:"deletes"`
	IDSum     int64   `json:"id_sum"`
	AmountSum int64   `json:"amount_sum"`
	NullCount int64   `json:"null_count"`
	TextBytes int64   `json:"text_bytes"`
	HashSum   *uint64 `json:"hash_sum"`
}

type counter struct {
	summary
	verify   bool
	amount   int
	text     []int
	render   []func(any) string
	hash     uint64
	hashable bool
	line     []byte
}

func newCounter(s *spec) *counter {
	c := &counter{verify: s.Verify, amount: -1, hashable: true}
	isText := map[string]bool{}
	for _, name := range s.TextColumns {
		isText[name] = true
	}
	for i, col := range s.Columns {
		if col.Name == "amount" {
			c.amount = i
		}
		if isText[col.Name] {
			c.text = append(c.text, i)
		}
		c.render = append(c.render, c.renderer(col.Type, s.Family))
	}
	return c
}

func (c *counter) image(letter byte, row []any) {
	c.IDSum += row[0].(int64)
	if c.amount >= 0 {
		c.AmountSum += digits(row[c.amount])
	}
	for _, value := range row {
		if value == nil {
			c.NullCount++
		}
	}
	for _, i := range c.text {
		switch value := row[i].(type) {
		case string:
			c.TextBytes += int64(len(value))
		case []byte:
			c.TextBytes += int64(len(value))
		}
	}
	if c.verify {
		c.add(letter, row)
	}
}

func (c *counter) add(letter byte, row []any) {
	c.line = append(c.line[:0], letter)
	for i, value := range row {
		c.line = append(c.line, '|')
		if value == nil {
			c.line = append(c.line, '~')
		} else {
			c.line = append(c.line, c.render[i](value)...)
		}
	}
	sum := sha256.Sum256(c.line)
	c.hash += binary.BigEndian.Uint64(sum[:8]) >> 16
}

// rows takes in one rows event.
func (c *counter) rows(eventType replication.EventType, rows [][]any) {
	switch eventType {
	case replication.WRITE_ROWS_EVENTv1, replication.WRITE_ROWS_EVENTv2, replication.MARIADB_WRITE_ROWS_COMPRESSED_EVENT_V1:
		c.Inserts += int64(len(rows))
		for _, row := range rows {
			c.image('I', row)
		}
	case replication.DELETE_ROWS_EVENTv1, replication.DELETE_ROWS_EVENTv2, replication.MARIADB_DELETE_ROWS_COMPRESSED_EVENT_V1:
		c.Deletes += int64(len(rows))
		for _, row := range rows {
			c.image('D', row)
		}
	default:
		c.Updates += int64(len(rows) / 2)
		for i := 0; i < len(rows); i += 2 {
			c.image('B', rows[i])
			c.image('A', rows[i+1])
		}
	}
}

// digits reads a decimal's text as an integer of its last digit's unit.
func digits(value any) int64 {
	text, _ := value.(string)
	var sum int64
	negative := false
	for i := 0; i < len(text); i++ {
		switch b := text[i]; {
		case b >= '0' && b <= '9':
			sum = sum*10 + int64(b-'0')
		case b == '-':
			negative = true
		}
	}
	if negative {
		return -sum
	}
	return sum
}

func (c *counter) renderer(sqlType, family string) func(any) string {
	switch {
	case strings.Contains(sqlType, "latin1"):
		return func(v any) string { return latin1(asBytes(v)) }
	case strings.HasPrefix(sqlType, "JSON") && family == "mysql":
		return func(v any) string {
			if _, isDiff := v.(*replication.JsonDiff); isDiff {
				c.hashable = false // the library gives the difference, not the value
				return ""
			}
			return documentText(asBytes(v))
		}
	case strings.HasPrefix(sqlType, "ENUM"):
		members := strings.Split(strings.Trim(sqlType[4:], "()"), ",")
		return func(v any) string { return strings.Trim(members[v.(int64)-1], "'") }
	case strings.HasPrefix(sqlType, "DATETIME("), strings.HasPrefix(sqlType, "DATETIME"), strings.HasPrefix(sqlType, "TIMESTAMP"):
		layout := "2006-01-02 15:04:05"
		if at := strings.IndexByte(sqlType, '('); at > 0 {
			count, _ := strconv.Atoi(sqlType[at+1 : at+2])
			layout += "." + strings.Repeat("0", count)
		}
		return func(v any) string {
			if text, isText := v.(string); isText { // inside compressed transactions, whatever is asked for
				return text
			}
			return v.(time.Time).UTC().Format(layout)
		}
	case strings.HasPrefix(sqlType, "INT UNSIGNED"):
		return func(v any) string {
			switch n := v.(type) {
			case int32:
				return strconv.FormatUint(uint64(uint32(n)), 10)
			default:
				return fmt.Sprint(n)
			}
		}
	case sqlType == "FLOAT":
		return func(v any) string { return strconv.FormatFloat(float64(v.(float32)), 'f', -1, 32) }
	case sqlType == "DOUBLE":
		return func(v any) string { return strconv.FormatFloat(v.(float64), 'f', -1, 64) }
	}
	return func(v any) string {
		switch value := v.(type) {
		case string:
			return value
		case []byte:
			return string(value)
		case int64:
			return strconv.FormatInt(value, 10)
		default:
			return fmt.Sprint(value)
		}
	}
}

func asBytes(v any) []byte {
	if text, ok := v.(string); ok {
		return []byte(text)
	}
	return v.([]byte)
}

func latin1(raw []byte) string {
	out := make([]rune, len(raw))
	for i, b := range raw {
		out[i] = rune(b)
	}
	return string(out)
}

// documentText prints a JSON document as MySQL does: keys by length and then by bytes, a space after , and :.
func documentText(raw []byte) string {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var document any
	if err := decoder.Decode(&document); err != nil {
		panic(err)
	}
	var out strings.Builder
	printDocument(&out, document)
	return out.String()
}

func printDocument(out *strings.Builder, value any) {
	switch v := value.(type) {
	case map[string]any:
		keys := make([]string, 0, len(v))
		for key := range v {
			keys = append(keys, key)
		}
		sort.Slice(keys, func(i, j int) bool {
			if len(keys[i]) != len(keys[j]) {
				return len(keys[i]) < len(keys[j])
			}
			return keys[i] < keys[j]
		})
		out.WriteByte('{')
		for i, key := range keys {
			if i > 0 {
				out.WriteString(", ")
			}
			printDocument(out, key)
			out.WriteString(": ")
			printDocument(out, v[key])
		}
		out.WriteByte('}')
	case []any:
		out.WriteByte('[')
		for i, item := range v {
			if i > 0 {
				out.WriteString(", ")
			}
			printDocument(out, item)
		}
		out.WriteByte(']')
	case string:
		var text bytes.Buffer
		encoder := json.NewEncoder(&text)
		encoder.SetEscapeHTML(false)
		_ = encoder.Encode(v)
		out.Write(bytes.TrimRight(text.Bytes(), "\n"))
	case json.Number:
		out.WriteString(v.String())
	case bool:
		out.WriteString(strconv.FormatBool(v))
	default:
		out.WriteString("null")
	}
}

// take reads one event; true at the real rotate event that ends a file.
func (c *counter) take(event *replication.BinlogEvent) bool {
	switch e := event.Event.(type) {
	case *replication.RowsEvent:
		c.rows(event.Header.EventType, e.Rows)
	case *replication.TransactionPayloadEvent:
		for _, inner := range e.Events {
			c.take(inner)
		}
	case *replication.RotateEvent:
		return event.Header.Timestamp != 0 && event.Header.LogPos != 0
	}
	return false
}

func readBySyncer(s *spec, c *counter) error {
	config := replication.BinlogSyncerConfig{
		ServerID:                s.ServerID,
		Flavor:                  s.Family,
		Host:                    s.Host,
		Port:                    s.Port,
		User:                    s.User,
		ParseTime:               true,
		TimestampStringLocation: time.UTC,
		DiscardGTIDSet:          true,
		Logger:                  silent(),
	}
	if s.Family == mysql.MariaDBFlavor {
		// 1.9.1 reads MariaDB's compressed rows from the wrong offset; with the header cut off first, from the right one.
		config.RowsEventDecodeFunc = func(event *replication.RowsEvent, data []byte) error {
			at, err := event.DecodeHeader(data)
			if err != nil {
				return err
			}
			return event.DecodeData(0, data[at:])
		}
	}
	if s.TLS {
		config.TLSConfig = &tls.Config{InsecureSkipVerify: true}
	}
	streamer, err := replication.NewBinlogSyncer(config).StartSync(mysql.Position{Name: s.Files[0], Pos: 4})
	if err != nil {
		return err
	}
	left := len(s.Files)
	for {
		event, err := streamer.GetEvent(context.Background())
		if err != nil {
			return err
		}
		if c.take(event) {
			if left--; left == 0 {
				return nil
			}
		}
	}
}

type handler struct {
	canal.DummyEventHandler
	c    *counter
	left int
	done chan struct{}
}

func (h *handler) OnRow(e *canal.RowsEvent) error {
	if h.left > 0 {
		h.c.rows(e.Header.EventType, e.Rows)
	}
	return nil
}

func (h *handler) OnRotate(header *replication.EventHeader, _ *replication.RotateEvent) error {
	if header.Timestamp != 0 && header.LogPos != 0 && h.left > 0 {
		if h.left--; h.left == 0 {
			close(h.done)
		}
	}
	return nil
}

func readByCanal(s *spec, c *counter) error {
	config := canal.NewDefaultConfig()
	config.Addr = fmt.Sprintf("%s:%d", s.Host, s.Port)
	config.User = s.User
	config.Flavor = s.Family
	config.ServerID = s.ServerID
	config.ParseTime = true
	config.Dump.ExecutionPath = ""
	config.Logger = silent()
	if s.TLS {
		config.TLSConfig = &tls.Config{InsecureSkipVerify: true}
	}
	reader, err := canal.NewCanal(config)
	if err != nil {
		return err
	}
	h := &handler{c: c, left: len(s.Files), done: make(chan struct{})}
	reader.SetEventHandler(h)
	failed := make(chan error, 1)
	go func() { failed <- reader.RunFrom(mysql.Position{Name: s.Files[0], Pos: 4}) }()
	select {
	case <-h.done:
		return nil
	case err := <-failed:
		return err
	}
}

func silent() *log.Logger {
	output, _ := log.NewStreamHandler(io.Discard)
	return log.New(output, 0)
}

func run() error {
	if len(os.Args) != 3 {
		return fmt.Errorf("usage: gomysql SPEC RESULT")
	}
	content, err := os.ReadFile(os.Args[1])
	if err != nil {
		return err
	}
	var s spec
	if err := json.Unmarshal(content, &s); err != nil {
		return err
	}
	c := newCounter(&s)
	if s.Reader == "canal" {
		err = readByCanal(&s, c)
	} else {
		err = readBySyncer(&s, c)
	}
	if err != nil {
		return err
	}
	if s.Verify && c.hashable {
		c.HashSum = &c.hash
	}
	result, err := json.Marshal(c.summary)
	if err != nil {
		return err
	}
	return os.WriteFile(os.Args[2], result, 0o644)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "gomysql:", err)
		os.Exit(1)
	}
}
