// A Go client as a program: `client HOST:PORT TOKEN MARKET`; talks as programs.py says.
//
// It is built on the WebSocket library of the vendor's Go client and behaves on the wire as that one does: it sends
// the token and one request for each channel without reading anything first, takes no frame above 1,000,000 bytes,
// pings every 25 seconds, and gives up a connection on which nothing has come for 30.
package main

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

const (
	frameBytesMax = 1_000_000
	silence       = 30 * time.Second
	pingEvery     = 25 * time.Second
	retryAfter    = 50 * time.Millisecond
)

type request struct {
	Action string `json:"action"`
	Params string `json:"params"`
}

type client struct {
	url, token string
	mutex      sync.Mutex
	topics     []string
	connection *websocket.Conn
}

var output = json.NewEncoder(os.Stdout)

func say(line map[string]any) {
	if err := output.Encode(line); err != nil {
		os.Exit(1)
	}
}

// ask sends one request for each channel. A failed write shows up as the end of reading.
func (c *client) ask(action string, topics []string) {
	if c.connection == nil {
		return
	}
	byChannel := map[string][]string{}
	for _, topic := range topics {
		channel, _, _ := strings.Cut(topic, ".")
		byChannel[channel] = append(byChannel[channel], topic)
	}
	for _, some := range byChannel {
		_ = c.connection.WriteJSON(request{action, strings.Join(some, ",")})
	}
}

func (c *client) connect() error {
	connection, response, err := websocket.DefaultDialer.Dial(c.url, nil)
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	connection.SetReadLimit(frameBytesMax)
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.connection = connection
	_ = connection.WriteJSON(request{"auth", c.token})
	c.ask("subscribe", c.topics)
	return nil
}

// read passes frames on until the connection ends; it gives the close code, 1006 where there was none.
func (c *client) read() (int, string) {
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		ticker := time.NewTicker(pingEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ended:
				return
			case <-ticker.C:
				_ = c.connection.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second))
			}
		}
	}()
	c.connection.SetPongHandler(func(string) error {
		return c.connection.SetReadDeadline(time.Now().Add(silence))
	})
	for {
		_ = c.connection.SetReadDeadline(time.Now().Add(silence))
		_, frame, err := c.connection.ReadMessage()
		if err != nil {
			if closed, ok := err.(*websocket.CloseError); ok {
				return closed.Code, closed.Text
			}
			return websocket.CloseAbnormalClosure, err.Error()
		}
		say(map[string]any{"frame": string(frame)})
	}
}

func (c *client) follow() {
	for {
		if err := c.connect(); err == nil {
			code, reason := c.read()
			say(map[string]any{"closed": code, "reason": reason})
			if code == websocket.ClosePolicyViolation {
				say(map[string]any{"failed": reason})
				os.Exit(0)
			}
		}
		time.Sleep(retryAfter)
	}
}

func (c *client) obey(action string, topics []string) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	held := c.topics[:0:0]
	for _, topic := range c.topics {
		if !strings.Contains(","+strings.Join(topics, ",")+",", ","+topic+",") {
			held = append(held, topic)
		}
	}
	if action == "subscribe" {
		held = append(held, topics...)
	}
	c.topics = held
	c.ask(action, topics)
}

func main() {
	c := &client{url: "ws://" + os.Args[1] + "/" + os.Args[3], token: os.Args[2]}
	go c.follow()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var commands map[string][]string
		if err := json.Unmarshal(lines.Bytes(), &commands); err != nil {
			os.Exit(2)
		}
		for action, topics := range commands {
			c.obey(action, topics)
		}
	}
}
