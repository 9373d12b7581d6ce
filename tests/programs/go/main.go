// The article's program: gin, a graceful shutdown as the framework's own documentation shows it.
// GET /a waits nine seconds and then counts, GET /b counts at once.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gin-gonic/gin"
)

// The time a request may still take once the server was asked to stop.
const grace = 9 * time.Second

func main() {
	port := flag.Int("port", 0, "on the loopback address; 0 lets the system choose")
	slow := flag.Int("slow", 9000, "how long GET /a waits, in milliseconds")
	flag.Parse()

	var num uint64
	count := func(c *gin.Context) {
		c.JSON(http.StatusOK, gin.H{"num": atomic.AddUint64(&num, 1)})
	}
	router := gin.New()
	router.Use(gin.Recovery())
	router.GET("/a", func(c *gin.Context) {
		time.Sleep(time.Duration(*slow) * time.Millisecond)
		count(c)
	})
	router.GET("/b", count)
	router.POST("/orders", func(c *gin.Context) {
		body, err := c.GetRawData()
		if err != nil {
			c.Status(http.StatusBadRequest)
			return
		}
		c.Data(http.StatusOK, "application/json", body)
	})

	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", *port))
	if err != nil {
		log.Fatalf("listen: %s", err)
	}
	fmt.Printf("listening on %s\n", listener.Addr())

	srv := &http.Server{Handler: router}
	go func() {
		if err := srv.Serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
			log.Fatalf("serve: %s", err)
		}
	}()

	quit := make(chan os.Signal, 1)
	signal.Notify(quit, syscall.SIGINT, syscall.SIGTERM)
	got := <-quit
	log.Println("Shutting down server...", got)

	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		log.Fatal("Server forced to shutdown: ", err)
	}
	log.Println("Server exiting")
}
