// A chat hub on gorilla/websocket: two goroutines a member, as its documentation has it, a queue between them, and each
// message encoded and framed once for all (PreparedMessage).
package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"

	"github.com/gorilla/websocket"
)

// What a member may lag by: as good as no limit for what the benchmarks send.
const queue = 4096

type member struct {
	conn  *websocket.Conn
	queue chan *websocket.PreparedMessage
}

type room struct {
	sync.Mutex
	members map[*member]struct{}
}

type message struct {
	Type     string `json:"type"`
	Content  string `json:"content"`
	Room     string `json:"room"`
	Username string `json:"username"`
}

var (
	rooms    sync.Map
	upgrader = websocket.Upgrader{WriteBufferPool: &sync.Pool{}}
)

func serve(response http.ResponseWriter, request *http.Request) {
	name := strings.TrimPrefix(request.URL.Path, "/ws/")
	username := request.URL.Query().Get("username")
	conn, err := upgrader.Upgrade(response, request, nil)
	if err != nil {
		return
	}
	found, _ := rooms.LoadOrStore(name, &room{members: map[*member]struct{}{}})
	here := found.(*room)
	self := &member{conn, make(chan *websocket.PreparedMessage, queue)}
	here.Lock()
	here.members[self] = struct{}{}
	here.Unlock()
	go self.write()
	defer func() {
		here.Lock()
		if _, isHere := here.members[self]; isHere {
			delete(here.members, self)
			close(self.queue)
		}
		here.Unlock()
		conn.Close()
	}()
	for {
		kind, content, err := conn.ReadMessage()
		if err != nil || kind != websocket.TextMessage {
			return
		}
		data, _ := json.Marshal(message{"chat", string(content), name, username})
		prepared, _ := websocket.NewPreparedMessage(websocket.TextMessage, data)
		here.Lock()
		for other := range here.members {
			select {
			case other.queue <- prepared:
			default: // it does not read
				delete(here.members, other)
				close(other.queue)
			}
		}
		here.Unlock()
	}
}

func (self *member) write() {
	for prepared := range self.queue {
		if self.conn.WritePreparedMessage(prepared) != nil {
			break
		}
	}
	self.conn.Close()
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Printf("listening on ws://%s\n", listener.Addr())
	panic(http.Serve(listener, http.HandlerFunc(serve)))
}
