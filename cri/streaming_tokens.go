package cri

import (
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// tokenTTL is how long a token can be redeemed.
	tokenTTL = time.Minute
	// maxTokens bounds the tokens that wait to be redeemed.
	maxTokens = 1000
)

// tokens keeps the requests of sessions until their clients come. A token is
// good for one use.
type tokens struct {
	now func() time.Time

	mu      sync.Mutex
	waiting map[string]waitingRequest
	// order has the tokens by age, which is the order of expiry too; those
	// redeemed meanwhile are no longer in waiting.
	order []string
}

type waitingRequest struct {
	request any
	expires time.Time
}

func newTokens(now func() time.Time) *tokens {
	return &tokens{now: now, waiting: map[string]waitingRequest{}}
}

// issue keeps request and returns its token. It fails with
// errdefs.ErrResourceExhausted when too many wait.
func (t *tokens) issue(request any) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expire()
	if len(t.waiting) >= maxTokens {
		return "", fmt.Errorf("%d streaming URLs have not been used yet: %w", len(t.waiting), errdefs.ErrResourceExhausted)
	}
	token := rand.Text()
	t.waiting[token] = waitingRequest{request, t.now().Add(tokenTTL)}
	t.order = append(t.order, token)
	return token, nil
}

// redeem returns the request of a token, once.
func (t *tokens) redeem(token string) (any, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w, ok := t.waiting[token]
	delete(t.waiting, token)
	if !ok || t.now().After(w.expires) {
		return nil, false
	}
	return w.request, true
}

// expire drops what is too old or was redeemed, as far as it is the oldest.
func (t *tokens) expire() {
	now := t.now()
	n := 0
	for _, token := range t.order {
		if w, ok := t.waiting[token]; ok {
			if !now.After(w.expires) {
				break
			}
			delete(t.waiting, token)
		}
		n++
	}
	t.order = t.order[:copy(t.order, t.order[n:])]
}
