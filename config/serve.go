package config

// Serve is the registry of this node's images for other nodes.
type Serve struct {
	Address      string   `yaml:"address"`
	Repositories []string `yaml:"repositories"`
	TLSCert      string   `yaml:"tlsCert"`
	TLSKey       string   `yaml:"tlsKey"`
	ClientCA     string   `yaml:"clientCA"`
	TokensFile   string   `yaml:"tokensFile"`
	MaxTransfers int      `yaml:"maxTransfers"`
	Bandwidth    int64    `yaml:"bandwidth"`
}
